"""Shortens the error messages of jsonargparse to one line."""

import re
from collections.abc import Iterable

from lightning_modules.command_line.suggestions import suggestion

# lines that jsonargparse adds for every alternative of a Union and for the whole value
_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type|Given value: Namespace|"
    r"Given value: NestedArg|Got value: Namespace|Expected a <class 'NoneType'>|Expected a path but|"
    r"Given value: \[(Namespace|{'class_path')|Not a valid subclass of Callback|"
    r"Subclass types expect one of|a class path \(str\)|a dict with (class_path|parameters)|a dict without class_path)"
)


def one_line(message: str, keys: Iterable[str] = ()) -> str:
    """Return an error message of jsonargparse in one line, with similar names if one was misspelt.

    Args:
        message: the message, of any number of lines.
        keys: the keys of the parser.

    Example:
        >>> one_line("Unrecognized arguments: --trainer.max_epoch=3", ["trainer.max_epochs", "trainer.devices"])
        'Unrecognized arguments: --trainer.max_epoch=3; did you mean trainer.max_epochs?'
        >>> one_line('''Parser key "model":
        ...   Does not validate against any of the Union subtypes
        ...   Errors:
        ...     - Problem with given class_path 'kafnets.attacks.FGSM':
        ...         Option 'epss' is not accepted
        ...     - Expected a <class 'NoneType'>''')
        "model: Option 'epss' is not accepted; did you mean eps?"
        >>> one_line("Expected a dot import path string: Silu")
        "'Silu' is neither a known class nor a dotted path; did you mean SiLU?"
    """
    path, rest, owner, unknown = [], [], "", ""
    for line in message.splitlines():
        text = line.strip().removeprefix("- ").strip()
        text = re.sub(r"Type .*? expects a function or a callable class: ?", "", text)
        if key := re.match(r'Parser key "([^"]+)":\s*', text):
            path += [] if key[1] in path else [key[1]]
            text = text[key.end() :]
        if problem := re.match(r"Problem with given class_path '([^']+)':\s*", text):
            owner, text = problem[1], text[problem.end() :]
        if built := re.search(r"is not accepted\. Got value: Namespace\(class_path='([^']+)'", text):
            owner = built[1]  # the class of an argument that is a callable
        if name := re.match(r"Expected a dot import path string: (\w+)", text):
            unknown, text = name[1], f"'{name[1]}' is neither a known class nor a dotted path"
        if unknown and text.startswith(f"Given value: {unknown}"):
            continue  # the value is named already
        if text and not _NOISE.match(text) and text not in rest:
            rest.append(text)
    if unknown:  # another alternative of the type does not have the option at all, which is no help
        rest = [text for text in rest if not text.startswith("Option '")]
    gist = (f"{'.'.join(path)}: " if path else "") + " ".join(rest)
    gist = re.sub(r"<class '([\w.]+)'>", r"\1", gist)
    gist = re.sub(r"\.*\s*Got value: Namespace\(.*", "", gist)
    gist = re.sub(r"(has no attribute '\w+')\.? G(ot|iven) value: \S+", r"\1", gist)
    return gist + suggestion(gist, owner, keys)
