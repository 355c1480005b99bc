"""How much a request may ask for, and the server hold at once."""

from dataclasses import dataclass, fields

from overnight.errors import UserError


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        body_bytes: of a request.
        texts: of a request.
        text_chars: of one text to score, classify or take features of.
        total_chars: of all texts of a request.
        trace_chars: of a text to trace; what the model knew after each of its bytes is held.
        prompt_chars: of a text to continue.
        generate_bytes: to generate in one request.
        connections: open at once; those that say nothing go first.
        requests: in work or waiting; those beyond are refused.
        streams: of generated text at once; those beyond are refused.
        lanes: texts read or written at once, one byte of each a step.
        seconds: until an answer has to be complete.
        history_bytes: of memory for traces in work, and again for those kept.

    Raises:
        UserError: if a limit is not above 0.
    """

    body_bytes: int = 1 << 20
    texts: int = 256
    text_chars: int = 20_000
    total_chars: int = 200_000
    trace_chars: int = 4000
    prompt_chars: int = 4000
    generate_bytes: int = 4000
    connections: int = 256
    requests: int = 64
    streams: int = 32
    lanes: int = 64
    seconds: float = 60.0
    history_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UserError(f"{field.name}={value} lets no request through.", f"{field.name} must be above 0.")
