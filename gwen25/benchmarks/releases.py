"""LiveCodeBench's releases: which files of the hub's data set one is.

    fetch(REPO, revision, "release_v2")      [Path(".../test.jsonl"), Path(".../test2.jsonl")]

The data set comes with a loading script, which is not run (`datasets` 4 refuses it, and so do we). Not here: what the files hold
(`problems`), and which revision is meant (pinned by whoever calls, before anything runs).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from gwen25.errors import BadInput, Unavailable

REPO: Final = "livecodebench/code_generation_lite"


def fetch(repo: str, revision: str, release: str) -> list[Path]:
    """The files of a release, from the hub or its cache: release_vN is test.jsonl, test2.jsonl ... testN.jsonl.

    `revision` is a commit, which pins the bytes. Raises BadInput where the hub has no such thing, Unavailable where it does
    not answer.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    number = re.fullmatch(r"release_v([1-9])", release)
    if number is None:
        raise BadInput(f"unknown release {release!r}: release_v1, release_v2 ... are expected")
    names = ["test.jsonl", *(f"test{part}.jsonl" for part in range(2, int(number[1]) + 1))]
    try:
        return [Path(hf_hub_download(repo, name, repo_type="dataset", revision=revision)) for name in names]
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.RemoteEntryNotFoundError, hub.HFValidationError) as error:
        raise BadInput(f"the hub has no {release} of {repo} at {revision}: {_first_line(error)}") from error
    except Exception as error:  # offline mode, a missing cache entry, httpx's and OS errors have no common root
        raise Unavailable(f"the hub did not give {release} of {repo}: {_first_line(error)}; try again, or name a local file") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
