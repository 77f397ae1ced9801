"""Every knob: its unit, its default, and why. Arguments win over environment, environment over TOML.

LIR_SEARCH__FIRST_STAGE_K=200 lir search ...      # environment: section, two underscores, name
lir.toml in the working directory                 # [search] first_stage_k = 200
LateInteractionIndex.open(path, settings=Settings(search=SearchSettings(first_stage_k=200)))
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from lir_agents.errors import ConfigError

__all__ = [
    "AuditSettings",
    "EncoderSettings",
    "FusionSettings",
    "IngestSettings",
    "LimitSettings",
    "MemorySettings",
    "SearchSettings",
    "Settings",
    "TelemetrySettings",
    "load_settings",
]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderSettings(_Section):
    """What runs the encoder."""

    backend: Literal["auto", "torch", "openvino"] = Field(
        "auto",
        description='The library of the forward pass on a processor. "auto": OpenVINO where it is installed, ranks '
        "alike and is faster on this machine, else torch. Vectors of both go together in one index.",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="Most threads of OpenVINO; None: the processors that the process may use."
    )


class IngestSettings(_Section):
    """How documents become passages."""

    passage_tokens: int = Field(
        220,
        ge=16,
        le=8192,
        description="Longest passage body, in the encoder's tokens; "
        "220 leaves room for a title within the 256 the bundled model was trained on.",
    )
    token_bits: Literal[2, 4, 8] | None = Field(
        None,
        description="Bits of each coordinate of a stored token vector, fixed when an index is made. None: as it "
        "was made, 4 for a new one. 2 takes half the disk; what each costs in quality: docs/performance.md.",
    )
    title_tokens: int = Field(
        32, ge=0, le=512, description="Most tokens of a title that are carried into each passage."
    )
    batch_documents: int = Field(
        256, ge=1, le=4096, description="Documents per commit: what a crash can cost at most."
    )
    max_document_chars: int = Field(20_000_000, ge=1, description="Longer documents are refused, in characters.")
    max_file_bytes: int = Field(
        200_000_000, ge=1, description="Larger files are refused, in bytes (JSONL streams are not)."
    )
    redact: bool = Field(
        False,
        description="Whether what the built-in recognisers find (e-mail addresses, card numbers, keys, …) is "
        "replaced before anything is stored, where `redactor=` is left out; fixed when an index is made.",
    )
    parse_timeout_s: float = Field(
        120.0,
        gt=0,
        description="Seconds after which parsing one HTML or PDF file is given up. Small HTML has less: 5 and a "
        "twentieth of this, and 3 for each megabyte.",
    )
    parse_memory_bytes: int = Field(
        2 << 30, ge=256 << 20, description="Memory that parsing one HTML or PDF file may take, in bytes."
    )


class SearchSettings(_Section):
    """How a search spends its effort."""

    k: int = Field(10, ge=1, description="Hits returned when the caller names no number.")
    first_stage_k: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Candidates taken from each first-stage list; deeper "
        "pools need fusion and cost MaxSim time linearly.",
    )
    max_query_chars: int = Field(100_000, ge=1, description="Longer queries are refused, in characters.")
    tool_timeout_s: float = Field(5.0, gt=0, description="Seconds that each tool of a search may take.")
    budget_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Default time budget of a search in milliseconds; None: none."
    )


Timed = Literal["memory", "tools", "encoder", "lexical", "vectors", "tokens", "first_stage", "rerank"]
"""What can have a time of its own: a stage, or one of the rooms that stages ask."""


class LimitSettings(_Section):
    """How long parts of a search may take, how many searches run at a time, and what is left alone for a while."""

    stage_budgets_ms: dict[Timed, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="Milliseconds that a stage, or a room that it asks, may take before the search goes on without "
        "it, also where the search has no budget. What is not named may take its share of the search's budget.",
    )
    at_work: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Searches that work at a time; None: one for each processor of this process, at least 2.",
    )
    waiting: int = Field(
        256, ge=0, le=100_000, description="Searches that may wait for their turn; more are refused at once."
    )
    stuck: int = Field(
        32, ge=1, le=1024, description="Threads beyond `at_work` that may be stuck in calls which do not return."
    )
    breaker_failures: int = Field(
        5, ge=1, description="Failures in a row after which a room is left alone (the encoder, a store, memory)."
    )
    breaker_open_s: float = Field(
        1.0, gt=0, description="Seconds for which it is left alone before it is tried again."
    )
    breaker_patience_ms: float = Field(
        500.0,
        gt=0,
        description="An answer that is too late for its search but comes within these milliseconds is no failure "
        "of the room: the budget was short.",
    )


class FusionSettings(_Section):
    """What each signal counts in a score; None: as shipped (`FusionWeights`, docs/tuning.md).

    The first three are weighed against each other: only their proportions matter.
    """

    maxsim: float | None = Field(None, ge=0, le=1, description="Late interaction.")
    dense: float | None = Field(None, ge=0, le=1, description="Cosine of pooled vectors.")
    lexical: float | None = Field(None, ge=0, le=1, description="BM25.")
    block: float | None = Field(
        None, ge=0, le=1, description="Share of the best block beside the whole passage in late interaction."
    )
    neighbours: float | None = Field(None, ge=0, le=1, description="Share of what similar candidates score.")
    context: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="Share of the turn read in the light of what was said, in every vector signal.",
    )
    context_terms: float | None = Field(
        None, ge=0, le=1, description="Weight of a word that was said before in BM25, where one of the turn has 1."
    )
    tool: float | None = Field(
        None, ge=0, description="What a tool that is sure adds to a passage that fits, in units of the score."
    )


class MemorySettings(_Section):
    """What a conversation keeps."""

    max_turns: int = Field(20, ge=0, le=1000, description="Turns recalled for one search, newest first.")
    ttl_s: float = Field(7 * 86_400.0, gt=0, description="Seconds after which what was remembered expires.")
    max_chars: int = Field(20_000, ge=1, description="Longest text kept of one turn or tool output, in characters.")
    timeout_s: float = Field(
        1.0, gt=0, description="Seconds that a search waits for the store; it goes on without memory after that."
    )


class AuditSettings(_Section):
    """How what happens is recorded."""

    durability: Literal["disk", "process"] = Field(
        "process",
        description="When what a search did counts as recorded: once the operating system holds it (and the disk "
        'within a tenth of a second), or, with "disk", once the disk does. With "process" nothing acknowledged is '
        "lost when the process is killed, and a power cut takes at most the searches of the last moment; what "
        "changes the index is on the disk first, either way.",
    )


class TelemetrySettings(_Section):
    """What is told of searches while they run; see docs/telemetry.md. Needs the extra `telemetry`."""

    enabled: bool = Field(False, description="Whether searches are traced and measured, in the whole process.")
    traces: Literal["host", "otlp", "off"] = Field(
        "host", description='Where spans go: "host": the process\'s own provider; "otlp": an OTLP collector.'
    )
    metrics: Literal["host", "otlp", "prometheus", "off"] = Field(
        "host", description='Where metrics go: as `traces`, or "prometheus": a page to be scraped.'
    )
    logs: bool = Field(False, description="Whether the logger lir_agents writes lines of JSON to standard error.")
    content: bool = Field(
        False,
        description="Whether spans hold queries, passages, their ids and reasons of failures. Metrics never do.",
    )
    otlp_endpoint: str = Field(
        "", description='"": as OTEL_EXPORTER_OTLP_ENDPOINT says, else http://localhost:4317.'
    )
    prometheus_host: str = Field("127.0.0.1", description="Address that the page listens on.")
    prometheus_port: int = Field(9464, ge=0, le=65_535, description="Its port; 0: any that is free.")
    service_name: str = Field("lir-agents", min_length=1, description="What this process is called.")


class Settings(BaseSettings):
    """All settings of an index; see the sections."""

    model_config = SettingsConfigDict(
        env_prefix="LIR_", env_nested_delimiter="__", toml_file="lir.toml", frozen=True, extra="forbid"
    )

    encoder: EncoderSettings = EncoderSettings()
    ingest: IngestSettings = IngestSettings()
    search: SearchSettings = SearchSettings()
    limits: LimitSettings = LimitSettings()
    fusion: FusionSettings = FusionSettings()
    memory: MemorySettings = MemorySettings()
    audit: AuditSettings = AuditSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(toml: Path | None = None) -> Settings:
    """Reads settings from the environment and `lir.toml` (or the file given).

    Raises:
        ConfigError: A setting is unknown or out of range; the message names it.
    """
    try:
        if toml is None:
            return Settings()

        class FileSettings(Settings):
            model_config = SettingsConfigDict(toml_file=toml)

        return FileSettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"setting {name}: {first['msg']}", setting=name, remedy="See lir_agents/config.py for ranges."
        ) from error
