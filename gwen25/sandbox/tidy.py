"""What a hostile program left in a folder: weigh it, remove it. Standard library only, for the grader and for the zygote.

weight(folder, most)    bytes below, an entry counting 4096 more
empty(folder)           remove everything below, whatever was put there: links are not followed, modes and depth are no obstacle
"""

from __future__ import annotations

import os


def weight(folder: str, most: int) -> int:
    """Bytes below, 4096 more for each entry. Stops counting above `most`; a folder that cannot be listed weighs more than that."""
    total, folders = 0, [folder]
    while folders and total <= most:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += 4096 + _size(entry)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    if total > most:
                        break
        except FileNotFoundError:  # removed while we looked
            continue
        except OSError:  # no permission, or a path too long for the kernel
            return most + 1
    return total


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def empty(folder: str) -> None:
    """Remove everything below `folder`, whose writer is dead and was hostile.

    Two descriptors at any depth, and back by "..": 3,000 levels are too many for a path and for a stack. Nothing is moved: Landlock's
    first version, on kernels before 5.19, allows no move from folder to folder.
    """
    if not _open_up(folder):
        return
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    above: list[tuple[str, list[str]]] = []  # of each folder above: the name that we went into, and the folders that are still to do
    todo = _unlinked(here)
    while todo or above:
        if todo:
            name = todo.pop()
            os.chmod(name, 0o700, dir_fd=here)
            there = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            above.append((name, todo))
            todo = _unlinked(there)
        else:
            there = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            name, todo = above.pop()
            os.rmdir(name, dir_fd=there)
        os.close(here)
        here = there
    os.close(here)


def _open_up(folder: str) -> bool:
    """Whether there is anything below. As after nearly every program there is nothing: 20 µs."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except PermissionError:
        os.chmod(folder, 0o700)  # noqa: PTH101
        return True


def _unlinked(folder: int) -> list[str]:
    """The folders within, after all else there was removed."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=folder)
    return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
