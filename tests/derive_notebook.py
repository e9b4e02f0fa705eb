"""The notebook for Colab, derived from its script: `make notebook`, after every change of gwen25/notebooks/finetuning.py.

    derived(script) -> the .ipynb's text: the same for the same script, without outputs

jupytext does the conversion. The cells' ids, which it draws at random, are made of their places, so that the file can be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jupytext

SCRIPT: Final = Path(__file__).parent.parent / "gwen25" / "notebooks" / "finetuning.py"
NOTEBOOK: Final = SCRIPT.with_suffix(".ipynb")
METADATA: Final = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def derived(script: str) -> str:
    notebook = jupytext.reads(script, "py:percent")
    notebook.metadata = type(notebook.metadata)(METADATA)
    for place, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{place}"
    return str(jupytext.writes(notebook, "ipynb")) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(derived(SCRIPT.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {NOTEBOOK}")
