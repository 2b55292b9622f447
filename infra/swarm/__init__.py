"""Simulated homesync nodes by the thousand, and the record of what they sent."""
