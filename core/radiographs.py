"""Whether pictures are X-rays, by what is written of them. Imports without torch."""

import re

RADIOGRAPH = re.compile(
    r"x-?ray|radiograph|r(?:ö|oe?)ntgen"
    r"|(?<![^\W_])(?:x[\W_]ray|cxr|chest[\W_]film|dicom)",  # at the start of a word
    re.IGNORECASE,
)
"""In captions, prompts and sources of X-rays."""
DOMAINS = {"chest", "both"}
"""Of set.json, and of a row of metadata: X-rays, or X-rays among others."""
