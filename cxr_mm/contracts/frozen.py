"""The base of every contract: frozen, and a field it does not know is an error."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that cannot change after it was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")
