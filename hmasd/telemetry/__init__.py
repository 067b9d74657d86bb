"""Stop 8: TensorBoard and JSONL writers, progress line, text log, run folder, timers."""
