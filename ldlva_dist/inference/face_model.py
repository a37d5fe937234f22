"""A trained network ready for use, in plain torch: no Ray, no DeepSpeed.

    from ldlva_dist.inference.face_model import load_exported

    model = load_exported("exported/best")
    images = np.stack([model.prepare(Path(name).read_bytes()) for name in names])
    answers = model(images)
    answers.probs_nC          # columns in the order of model.description.class_names

n = images, s = side in pixels, c = channels, C = classes, V = feature width.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldlva_dist import storage
from ldlva_dist.dataset.preparation import Preparation
from ldlva_dist.errors import DataError
from ldlva_dist.inference import description as descriptions
from ldlva_dist.inference.description import Description
from ldlva_dist.models.backbone import build_backbone
from ldlva_dist.models.classifier import Classifier
from ldlva_dist.models.weights_file import read_safetensors, require_weights_of

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the network says of some images."""

    probs_nC: NDArray[np.float32]
    """Rows sum to 1."""
    features_nV: NDArray[np.float32]

    @property
    def entropy_n(self) -> NDArray[np.float32]:
        """In nats: 0 for a certain answer, log C for none."""
        logs_nC = np.log(np.maximum(self.probs_nC, np.finfo(np.float32).tiny))
        return -(self.probs_nC * logs_nC).sum(axis=1)


@dataclass(frozen=True, kw_only=True)
class Portable:
    """A network as two plain values, which can be sent or written anywhere."""

    description: Description
    weights: bytes
    """safetensors, of :class:`Classifier`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return hashlib.sha256(self.weights).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Everything of it that an answer depends on."""
        facts = self.description
        return {
            "weights": self.fingerprint,
            "network": [facts.backbone, facts.width, facts.stem, facts.channels],
            "image_size": facts.image_size,
            "preprocessing": facts.preprocessing,
            "class_names": list(facts.class_names),
        }

    def build(self, device: str = "cpu") -> "FaceModel":
        """The network on a device; weights that are not those of the description are a DataError."""
        facts, what = self.description, f"the file of {self.description.name!r}"
        weights = read_safetensors(self.weights, what)
        with torch.device("meta"):
            require_weights_of(self._network(), weights, f"{what} ({facts.backbone}, width {facts.width})")
        network = self._network()
        network.load_state_dict(weights)
        if network.feature_width != facts.feature_width:
            raise DataError(
                f"{what} has features of {network.feature_width}, its description says {facts.feature_width}"
            )
        return FaceModel(facts, network.eval().to(device))

    def _network(self) -> Classifier:
        facts = self.description
        backbone = build_backbone(facts.backbone, width=facts.width, channels=facts.channels, stem=facts.stem)
        return Classifier(backbone, len(facts.class_names))


class FaceModel:
    """Images to distributions over the classes. May be used by one thread at a time."""

    def __init__(self, description: Description, network: Classifier) -> None:
        self.description, self.network = description, network
        self._device = next(network.parameters()).device

    @property
    def preparation(self) -> Preparation:
        """How an image becomes the network's input."""
        facts = self.description
        return Preparation(size=facts.image_size, channels=facts.channels, resize=facts.resize)

    def prepare(self, data: bytes | memoryview) -> NDArray[np.uint8]:
        """[s, s, c] an encoded image as in evaluation; one that cannot be decoded is a DataError."""
        return self.preparation.read(data)

    def __call__(self, images_nssc: NDArray[np.uint8]) -> Answers:
        """What the network says of prepared images."""
        with torch.inference_mode():
            probs_nC, features_nV = self.network(torch.from_numpy(images_nssc).to(self._device, non_blocking=True))
        return Answers(probs_nC=probs_nC.cpu().numpy(), features_nV=features_nV.cpu().numpy())


def is_exported(uri: str) -> bool:
    """Whether jobs/export.py wrote a folder to its end.

    Args:
        uri: Folder, local or s3://.
    """
    return storage.exists(storage.join(uri, descriptions.FILE))


def read_exported(uri: str) -> Portable:
    """Read what jobs/export.py wrote.

    Args:
        uri: Folder, local or s3://.

    Raises:
        DataError: if it is damaged.
    """
    about = storage.join(uri, descriptions.FILE)
    description = descriptions.parse_description(storage.read_bytes(about), about)
    portable = Portable(description=description, weights=storage.read_bytes(storage.join(uri, WEIGHTS)))
    if portable.fingerprint != description.files.get(WEIGHTS):
        raise DataError(
            f"{storage.join(uri, WEIGHTS)} is damaged: it does not have the checksum in {descriptions.FILE}"
        )
    return portable


def load_exported(uri: str, device: str = "cpu") -> FaceModel:
    """Load a network that jobs/export.py wrote, ready for use.

    Args:
        uri: Folder, local or s3://.
        device: Device in torch's words, such as ``cpu`` or ``cuda:0``.

    Raises:
        DataError: if the folder is damaged.
    """
    return read_exported(uri).build(device)
