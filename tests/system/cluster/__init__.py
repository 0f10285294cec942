"""A whole cluster as an operator would have it, what can happen to it, and judges of what it has delivered.

machines.py  brokers, receivers, deliverers and the balancer in front of them
posting.py   the client that posts once and never again, and how long its posts may take
judges.py    what arrived at each destination, against what was posted
"""
