"""Stress test: killed, interrupted and parallel runs, full disks, damaged and hostile files."""
