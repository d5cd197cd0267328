"""Alerts of monitoring and of the node: the channels that they are sent by."""
