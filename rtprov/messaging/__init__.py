"""What rtprov declares at the broker, and the format of every message that its processes
exchange.
"""
