"""Which policy it was: a hash of its weights, the same in every process and on both ends of a wire."""

from __future__ import annotations

import hashlib

import torch

from vla.policies.protocol import Policy


def policy_fingerprint(policy: Policy) -> str:
    """SHA-256 of a policy's id and weights, by name.

    Of a policy without weights of torch's it is what the policy says of itself (`fingerprint`, as one behind a wire
    does), or the hash of its id.
    """
    said = getattr(policy, "fingerprint", None)
    if isinstance(said, str):
        return said
    digest = hashlib.sha256(policy.policy_id.encode("utf-8"))
    if isinstance(policy, torch.nn.Module):
        for name, tensor in sorted(policy.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
