"""The journal keeps every post that was answered with 200 until each sink has it.

Read base (the contracts) first. sqlite is the embedded backend.
"""
