"""Names of components before protocol 2, which the alias `votes` and the columns `vote_…` keep for one version."""

__all__ = ["former_name"]

_FORMER = {"prediction_disagreement": "dispute", "logit_shift": "change"}


def former_name(component: str) -> str:
    """The name of a component before protocol 2.

    >>> former_name("logit_shift"), former_name("path")
    ('change', 'path')
    """
    return _FORMER.get(component, component)
