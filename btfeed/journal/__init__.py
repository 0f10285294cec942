"""Keeps every post that was answered with 200 until each sink has it.

Read base (the contracts) first, then memory (the shortest implementation of them), create (which chooses the backend) and
sqlite (the embedded backend).
"""
