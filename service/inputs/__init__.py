"""Inputs that several jobs share: plug-ins named on the command line, images, labels, views, and images seen before."""

from models.progress import say
from service.inputs.attacked import attacked_source
from service.inputs.companions import companion_note, load_companion, needs_companion
from service.inputs.engines import engine_of
from service.inputs.images import distinct_images, hold_out, require_disjoint
from service.inputs.labels import with_labels_of
from service.inputs.loading import dataset_request, load_for_artifact
from service.inputs.names import label, network_name
from service.inputs.plugins import attack_of, depth_rule_of, detector_of, objective_of, refuse_unused
from service.inputs.splits import split_in_two
from service.inputs.usable import refuse_unusable
from service.inputs.views import view_of, view_of_artifact, view_of_training

__all__ = [
    "attack_of",
    "attacked_source",
    "companion_note",
    "dataset_request",
    "depth_rule_of",
    "detector_of",
    "distinct_images",
    "engine_of",
    "hold_out",
    "label",
    "load_companion",
    "load_for_artifact",
    "needs_companion",
    "network_name",
    "objective_of",
    "refuse_unusable",
    "refuse_unused",
    "require_disjoint",
    "say",
    "split_in_two",
    "view_of",
    "view_of_artifact",
    "view_of_training",
    "with_labels_of",
]
