from collections import Counter

import pytest

from prepare.splitting import join_groups, near_groups, place_of, split_by_group

PATIENTS = [str(number // 3) for number in range(6000)]  # 2,000 patients, three images each


def test_no_group_is_in_two_splits_and_shares_are_kept():
    splits = split_by_group(PATIENTS, validation=0.1, test=0.2)
    assert all(splits[i] == splits[i + 1] == splits[i + 2] for i in range(0, 6000, 3))
    share = {split: count / 6000 for split, count in Counter(splits).items()}
    # 2,000 draws: three standard deviations are 0.02 and 0.027
    assert share["validation"] == pytest.approx(0.1, abs=0.02)
    assert share["test"] == pytest.approx(0.2, abs=0.027)


def test_new_images_move_no_old_ones():
    before = split_by_group(PATIENTS[:3000], 0.1, 0.2)
    assert split_by_group(PATIENTS, 0.1, 0.2)[:3000] == before
    assert split_by_group(PATIENTS[::-1], 0.1, 0.2)[::-1][:3000] == before


def test_another_seed_splits_otherwise():
    assert split_by_group(PATIENTS, 0.1, 0.2) != split_by_group(PATIENTS, 0.1, 0.2, seed=1)
    assert 0 <= place_of("a", 0) < 1


@pytest.mark.parametrize("count", [3, 4, 7])
def test_a_split_that_is_asked_for_is_not_empty(count):
    for seed in range(20):
        splits = split_by_group([str(n) for n in range(count)], 0.05, 0.05, seed)
        assert set(splits) == {"train", "validation", "test"}


def test_one_group_is_not_torn_apart():
    assert len(set(split_by_group(["a"] * 5, 0.1, 0.1))) == 1
    assert split_by_group(["a", "b"], 0.0, 0.0) == ["train", "train"]


def test_near_hashes_are_linked_by_steps():
    hashes = [bytes([n]).ljust(16, b"\0") for n in (0b0000, 0b0011, 0b1111)]  # 2 bits apart each
    hashes.append(b"\0" * 15 + b"\xff")  # far from all, in its last byte
    assert near_groups(hashes, 2) == [0, 0, 0, 3]
    assert near_groups(hashes, 1) == [0, 1, 2, 3]
    assert near_groups([hashes[3], hashes[3]], 0) == [0, 0]
    assert near_groups([hashes[3], hashes[3]], -1) == [0, 1]
    assert near_groups([], 2) == []


def test_linked_images_join_their_groups():
    # images 0 and 3 are alike, so patients "a" and "b" must go together; "c" is alone
    assert join_groups(["a", "a", "b", "b", "c"], [0, 1, 2, 0, 4]) == ["a", "a", "a", "a", "c"]
