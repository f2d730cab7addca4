"""From what a latent mixture wrote of itself to its section: has the mixture collapsed, or is a component a class?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLLAPSED = 0.9  # of log C: responsibilities as even as these tell no class from another
TERMS = ("classification", "reconstruction", "kl")


def mixture(
    syntheses: Sequence[str],
    summary: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    counts: Sequence[int],
) -> dict[str, Any]:
    """Facts (`report.facts.Mixture`) of one fitted generator, classes in the order of its components."""
    order = sorted(range(len(classes)), key=lambda c: -counts[c])
    use = {
        "images": [count / sum(counts) for count in counts],
        "likeliest": summary["component_use_argmax"],
        "responsibility": summary["component_use_mean"],
    }
    steps = sorted(
        {row["step"]: row for row in log}.values(), key=lambda row: row["step"]
    )  # a resumed one repeats
    unused = [classes[c] for c in order if counts[c] > 0 and summary["component_use_argmax"][c] == 0]
    return {
        "syntheses": list(syntheses),
        **_judged(summary, unused, len(classes)),
        "entropy": summary["responsibility_entropy_nats"],
        "entropy_share": summary["responsibility_entropy_share"],
        "unused": unused,
        "between_within": summary["between_within_variance"],
        "posterior_variance": summary["mean_posterior_variance"],
        "active": summary["active_dimensions"],
        "rank": summary["translation_rank"],
        "terms": {name: summary["losses"][name] for name in TERMS},
        "use": {
            "classes": [classes[c] for c in order],
            "arms": [{"arm": name, "shares": [shares[c] for c in order]} for name, shares in use.items()],
        },
        "curves": [
            {"term": name, "steps": [row["step"] for row in steps], "values": [row[name] for row in steps]}
            for name in TERMS
            if steps
        ],
    }


def _judged(summary: Mapping[str, Any], unused: Sequence[str], classes: int) -> dict[str, str]:
    """In a word, and in a sentence."""
    nats, share = summary["responsibility_entropy_nats"], summary["responsibility_entropy_share"]
    evenness = f"the responsibilities for a code have an entropy of {nats:.2f} nats, {100 * share:.0f} % of the largest possible"
    if summary["active_dimensions"] == 0:
        return {
            "collapsed": "wholly",
            "sentence": "The codes have collapsed: they are the same for every training image, in every dimension.",
        }
    if share >= COLLAPSED:
        return {
            "collapsed": "wholly",
            "sentence": f"The mixture has collapsed: {evenness}, so its components tell no class from another.",
        }
    if unused:
        return {
            "collapsed": "partly",
            "sentence": f"The mixture has collapsed in part: {len(unused)} of {classes} components are the likeliest of no training image; {evenness}.",
        }
    return {
        "collapsed": "no",
        "sentence": f"The mixture has not collapsed: {evenness}, and every component is the likeliest of some training images.",
    }
