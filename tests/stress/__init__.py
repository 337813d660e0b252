"""Nothing lost, nothing let in: runs killed, interrupted, raced and out of disk; files fuzzed and hostile."""
