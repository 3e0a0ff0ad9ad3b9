"""Symbolic links among the files of an archive, followed by name."""

from posixpath import dirname, join, normpath
from typing import NamedTuple


class Refused(NamedTuple):
    """Stands in place of a file that cannot be used; an error only where the file is part of the data set.

    Args:
        reason: which file, and what is wrong with it.
    """

    reason: str


def follow_links(files: dict[str, bytes | Refused], links: dict[str, str]) -> dict[str, bytes | Refused]:
    """Return ``files`` and what the links lead to, each under the name of its link.

    Args:
        files: contents by name.
        links: the target of each symbolic link, a file or a folder, relative to the folder of the link.

    Returns:
        A new mapping. A link that leads out of the archive, to nothing or in a circle becomes :class:`Refused`.

    Example:
        >>> follow_links({"a/x": b"1", "a/y": b"2"}, {"b": "a"})
        {'a/x': b'1', 'a/y': b'2', 'b/x': b'1', 'b/y': b'2'}
        >>> follow_links({}, {"b": "../a"})["b"].reason
        'the link b -> ../a leads out of the archive'
    """
    found = dict(files)
    waiting = {name: normpath(join(dirname(name), target)) for name, target in links.items()}

    def refuse(name: str, what: str) -> None:
        del waiting[name]
        found[name] = Refused(f"the link {name} -> {links[name]} {what}")

    for name, target in list(waiting.items()):
        if target.split("/")[0] in ("", ".."):
            refuse(name, "leads out of the archive")
        elif target in (".", *_folders_of(name)):
            refuse(name, "leads in a circle")
        elif ".." in links[name].lstrip("./").split("/"):
            # In "a/../x" the folder a may be a link, and then x is not beside it.
            refuse(name, "leads through .. behind a folder's name")
    while waiting:
        folders: set[str] = set()
        incomplete: set[str] = set()
        ready = {name: target for name, target in waiting.items() if target in found}
        if not ready:
            folders = {folder for file in found for folder in _folders_of(file)}
            incomplete = {folder for link in waiting for folder in _folders_of(link)}
            ready = {name: target for name, target in waiting.items() if target in folders and target not in incomplete}
        for name, target in ready.items():
            del waiting[name]
            behind = [target] if target in found else [file for file in found if file.startswith(f"{target}/")]
            found |= {name + file.removeprefix(target): found[file] for file in behind}
        if not ready:
            known = folders | incomplete | waiting.keys()
            broken = [name for name, t in waiting.items() if known.isdisjoint((t, *_linked_folders(t, waiting)))]
            for name in broken or list(waiting):
                refuse(name, "leads to nothing" if broken else "leads in a circle")
    for name in files:
        for link in _linked_folders(name, links):
            found[name] = Refused(f"the file {name} is stored below the link {link} -> {links[link]}")
    return found


def _folders_of(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _linked_folders(name: str, links: dict[str, str]) -> list[str]:
    return [folder for folder in _folders_of(name) if folder in links]
