"""What the node's file says of a destination that takes FHIR."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from app.pacs.sections.web import HttpService
from cxr_mm.core.types import Frozen


class FhirSettings(Frozen):
    """Where reports go as FHIR R4: to a server or into a folder."""

    server: HttpService | None = None
    """Server whose root takes transactions."""
    folder: Path | None = None
    """Folder that gets a file of JSON for each report; its permissions protect what is in it."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.server is None) == (self.folder is None):
            raise ValueError("`fhir` names either a server or a folder")
        return self

    def below(self, root: Path) -> Self:
        """The same with absolute paths."""
        server = self.server and self.server.below(root)
        folder = self.folder and root / self.folder
        return self.model_copy(update={"server": server, "folder": folder})
