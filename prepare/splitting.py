"""Splits that never cut through a group (a patient, a photograph and its near-duplicates).

A group's place is a hash of its name: images that come later move nothing that was there.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np


def place_of(group: str, seed: int) -> float:
    """The group's fixed place in [0, 1)."""
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def split_by_group(
    groups: Sequence[str], validation: float, test: float, seed: int = 0
) -> list[str]:
    """The split of every image, given its group's name.

    Places below `test` are test, the next `validation` wide are validation, the rest train. In a
    small set, a split that is asked for and would be empty gets the one group nearest to it.

    Args:
        groups: one name per image.
        validation, test: shares of the groups, 0 to 1, together below 1.
    """
    places = {group: place_of(group, seed) for group in sorted(set(groups))}
    chosen = {
        group: "test" if at < test else "validation" if at < test + validation else "train"
        for group, at in places.items()
    }
    sizes = Counter(chosen.values())
    for split, share, edge in (("test", test, 0.0), ("validation", validation, test)):
        _fill(chosen, sizes, split, share, lambda group, edge=edge: abs(places[group] - edge))
    _fill(chosen, sizes, "train", 1.0, lambda group: 1.0 - places[group])
    return [chosen[group] for group in groups]


def _fill(
    chosen: dict[str, str],
    sizes: Counter[str],
    split: str,
    share: float,
    distance: Callable[[str], float],
) -> None:
    """Give an empty split that should hold something the nearest group another can spare."""
    if sizes[split] or share == 0:
        return
    spare = [group for group, other in chosen.items() if sizes[other] > 1]
    if spare:
        nearest = min(spare, key=distance)
        sizes[chosen[nearest]] -= 1
        sizes[split] += 1
        chosen[nearest] = split


def near_groups(hashes: Sequence[bytes], distance: int) -> list[int]:
    """For each image the first one it is linked to by steps of at most `distance` different bits.

    Args:
        hashes: perceptual hashes of one length, a multiple of 8 bytes.
        distance: 0 links equal hashes only; below 0 nothing is linked.
    """
    first = list(range(len(hashes)))
    if distance < 0 or not hashes:
        return first
    words = np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(len(hashes), -1)  # N x W

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = first[i]
        return i

    for i in range(1, len(words)):
        apart = np.bitwise_count(words[:i] ^ words[i]).sum(axis=1, dtype=np.uint16)  # (i,)
        for j in np.flatnonzero(apart <= distance):
            low, high = sorted((root(int(j)), root(i)))
            first[high] = low
    return [root(i) for i in range(len(words))]


def join_groups(groups: Sequence[str], linked: Iterable[int]) -> list[str]:
    """Groups that `linked` images connect become one, under the first of their names.

    Args:
        groups: one name per image.
        linked: for each image the number of the image it belongs with (`near_groups`).
    """
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    for group, other in zip(groups, linked, strict=True):
        low, high = sorted((root(group), root(groups[other])))
        parent[high] = low
    return [root(group) for group in groups]
