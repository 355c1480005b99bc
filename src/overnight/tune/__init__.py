"""DATE as a tool: a baseline is measured (``probing``), taken to other batches (``plan``), and what follows is told."""
