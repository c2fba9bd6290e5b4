"""A web page of a deployment under way: pictures, joints, decisions, latencies, and a stop button."""
