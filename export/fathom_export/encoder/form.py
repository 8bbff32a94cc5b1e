"""What the graph of an encoder takes and gives, by its task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from fathom_client import protocol
from fathom_client.protocol import TensorSpec
from fathom_export.encoder.architecture import EncoderArchitecture
from fathom_export.encoder.classifier_model import ClassifierModel
from fathom_export.encoder.sentence_model import SentenceModel

EncoderTask = Literal["embed", "rerank", "classify"]

_TEXT_INPUTS: Final = (protocol.INPUT_IDS, protocol.ATTENTION_MASK)


@dataclass(frozen=True, slots=True)
class EncoderForm:
    """An encoder's source, and its graph's tensors: int64 inputs [batch, sequence] by name, one float32 output."""

    task: EncoderTask
    model: SentenceModel | ClassifierModel
    inputs: tuple[str, ...]
    output: TensorSpec

    @classmethod
    def load(cls, source: Path, task: EncoderTask) -> Self:
        """Read a checkpoint's folder for a task.

        Raises SourceError, CheckpointError or UnsupportedArchitectureError naming file and remedy.
        """
        if task == "embed":
            sentence_model = SentenceModel.load(source)
            embedding = TensorSpec(protocol.SENTENCE_EMBEDDING, "FP32", (sentence_model.dimension,))
            return cls(task, sentence_model, _TEXT_INPUTS, embedding)
        if task == "classify":
            classifier = ClassifierModel.load_classifier(source)
            return cls(task, classifier, _TEXT_INPUTS, TensorSpec(protocol.SCORES, "FP32", (len(classifier.labels),)))
        reranker = ClassifierModel.load_reranker(source)
        types = (protocol.TOKEN_TYPE_IDS,) if reranker.architecture.has_token_types else ()
        return cls(task, reranker, (*_TEXT_INPUTS, *types), TensorSpec(protocol.SCORE, "FP32", (1,)))

    @property
    def architecture(self) -> EncoderArchitecture:
        """The transformer."""
        return self.model.architecture

    @property
    def takes_pairs(self) -> bool:
        """Whether a row of the batch is two texts."""
        return self.task == "rerank"
