"""Groups of devices in HLO's spellings, and the axes of a mesh that they span."""

import math
import re
from collections.abc import Mapping

import numpy as np

_SUB_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


def members(text: str, num_partitions: int) -> np.ndarray:
    """Return the groups as an array [groups, devices of a group].

    Args:
      text: `{{0,1},{2,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)`, or
        `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}`; '' or `{}` is one group of all devices.
      num_partitions: number of devices.
    """
    if text.startswith("mesh"):
        return _named(text)
    if text.startswith("["):
        shape, iota = text.split("<=")
        return _iota(iota).reshape(_numbers(shape))
    lists = [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", text)]
    if not lists:
        return np.arange(num_partitions)[None]
    # Groups of different sizes are rare; the largest describes what is sent.
    longest = max(len(group) for group in lists)
    return np.array([group for group in lists if len(group) == longest])


def size(groups: np.ndarray, operation: str) -> int:
    """Return the number of devices that exchange data; for a permutation that of the longest ring."""
    if operation != "collective-permute":
        return groups.shape[1]
    if groups.shape[1] != 2:  # a permutation without pairs
        return 0
    following, longest, seen = dict(groups.tolist()), 0, set()
    for start in [*(set(following) - set(following.values())), *following]:
        length, device = 1, start
        while device in following and device not in seen:
            seen.add(device)
            device = following[device]
            length += device != start
        longest = max(longest, length)
    return longest


def axes(groups: np.ndarray, mesh_sizes: Mapping[str, int], are_pairs: bool = False) -> tuple[str, ...]:
    """Return the axes of a mesh along which the devices of a group differ.

    Args:
      groups: array of `members`.
      mesh_sizes: sizes of the mesh axes by name.
      are_pairs: whether the groups are the sources and targets of a permutation.

    Returns:
      The names; 'part of NAME' for an axis of which a group has only some devices. No names if the program
      has more devices than the mesh.
    """
    if groups.max() >= math.prod(mesh_sizes.values()):
        return ()
    coordinates = np.unravel_index(groups, tuple(mesh_sizes.values()))
    names = []
    for (name, length), places in zip(mesh_sizes.items(), coordinates, strict=True):
        spans = [len(set(group)) for group in places.tolist()]
        if max(spans) > 1:
            names.append(name if are_pairs or min(spans) == length else f"part of {name}")
    return tuple(names)


def _named(text: str) -> np.ndarray:
    """Read mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}; axes may be split as 'b':(1)2."""
    head, chosen = text.rsplit("{", 1)
    sizes = {name: int(length) for name, length in re.findall(r"'([^']+)'=(\d+)", head)}
    order = re.search(r"device_ids=\((.*)\)\s*$", head)
    count = math.prod(sizes.values())
    devices = _iota(order[1]) if order else np.arange(count)
    devices = devices.reshape(tuple(sizes.values()))
    refs = [(name, int(before or 1), int(part or 0)) for name, before, part in _SUB_AXIS.findall(chosen)]
    shape, positions = [], {}
    for name, length in sizes.items():
        parts = [(before, part) for ref, before, part in refs if ref == name and part]
        before, part = parts[0] if parts else (1, length)
        positions[name] = len(shape) + 1
        shape += [before, part, length // (before * part)]
    devices = devices.reshape(shape)
    last = [positions[name] for name, _, _ in refs]
    others = [axis for axis in range(len(shape)) if axis not in last]
    return devices.transpose(*others, *last).reshape(-1, math.prod(shape[axis] for axis in last))


def _iota(text: str) -> np.ndarray:
    """Read [4,16]T(1,0), or a list of numbers."""
    match = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text.strip())
    if not match:
        return np.array(_numbers(text))
    shape = _numbers(match[1])
    devices = np.arange(math.prod(shape)).reshape(shape)
    return devices.transpose(_numbers(match[2])) if match[2] else devices


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text))
