"""The line about classes with few images."""

import numpy as np

from service.inputs import detector_of
from service.inputs.class_counts import note_on_few_images


def test_classes_with_few_images_are_counted_for_means_and_for_classifiers() -> None:
    labels = np.repeat(np.arange(30), 10)
    own_score = detector_of("mahalanobis:classifier=none", {})
    classifiers = detector_of("mahalanobis", {})
    assert note_on_few_images(own_score, labels, labels, 30) is None
    note = note_on_few_images(own_score, labels, labels, 1000)
    assert note == "970 of 1,000 classes have fewer than 5 reference images: they share the mean of all images"
    note = note_on_few_images(classifiers, labels, labels, 30)
    assert note == "30 of 30 classes have fewer than 20 images to fit on: they use the classifier of all classes"
