"""Where supervision landed, measured while a run trains: reachability, KL both ways, recoverability, update geometry."""
