"""The error that ends a command in one line."""


class HrrsiError(Exception):
    """Something that the user can put right.

    The command line prints it as ``error: WHERE: WHAT; FIX`` and exits with 1.

    Args:
        what: What went wrong, in a few words.
        where: The file, scene, option or place it went wrong in.
        fix: What to do about it.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        line = what if where is None else f"{where}: {what}"
        super().__init__(f"{line}; {fix}" if fix else line)

    def with_note(self, note: str) -> "HrrsiError":
        """Return the error with something more to know at its end."""
        return HrrsiError(
            self.what, where=self.where, fix=f"{self.fix}; {note}" if self.fix else note
        )

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments must survive worker processes
        return (_rebuild, (self.what, self.where, self.fix))


def _rebuild(what: str, where: object, fix: str | None) -> HrrsiError:
    return HrrsiError(what, where=where, fix=fix)
