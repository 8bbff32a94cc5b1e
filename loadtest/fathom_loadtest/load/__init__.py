"""When requests are sent: stages of a run, arrivals of an open loop, the replay of a trace."""
