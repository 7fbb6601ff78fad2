"""`make soak`: a random workload while everything is killed, paused and cut; then every document is compared."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson

from app.local.console import Console
from app.local.kafka import prepare
from app.local.kafka_home import KafkaHome
from app.local.process import until_stopped
from app.local.redis import INSTALL, find_redis_server
from bench.report import Report, redis_version
from bench.soak_audit import Audit, audit, dead_letters, wait_caught_up
from bench.soak_auditor import Auditor, run_audit
from bench.soak_cluster import REPLICAS, Cluster
from bench.soak_faults import Chaos, fault_plan
from bench.soak_load import Loader, Workload
from bench.soak_model import Model, read_truth
from bench.soak_probe import Prober
from bench.soak_report import fill
from bench.soak_staleness import StalenessLog
from bench.stack import check_installed
from schemas.errors import HeadraceError, ServiceMissing

_STEP_S = 0.02
_SAY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. faults: stop after so many, whenever that is; None: after `seconds`. runtime: of the model.

    versions: whether some documents have versions of their own, old ones among them.
    """

    seed: int
    seconds: float = 600
    faults: int | None = None
    every_s: float = 4
    rate: float = 40
    documents: int = 400
    runtime: str = "hashing"
    versions: bool = True
    rebuild: bool = True


@dataclass(slots=True)
class Outcome:
    """drift: what must be 0, by when it was found and kind. findings: each in words. figures: everything else."""

    drift: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def drifted(self) -> int:
        """How much there is in all."""
        return sum(sum(kinds.values()) for kinds in self.drift.values())

    def add(self, when: str, drift: Counter[str], findings: list[str]) -> None:
        """What one part found."""
        self.drift[when] = dict(drift)
        self.findings += [f"{when}: {words}" for words in findings]


class Soak:
    """One run, in a folder that must be empty. Call `run` from the main thread or one that lives as long."""

    def __init__(self, plan: Plan, folder: Path, home: KafkaHome, redis_program: Path, console: Console) -> None:
        self._plan = plan
        self._folder = folder
        self._home = home
        self._redis_program = redis_program
        self._console = console
        self._model = Model()
        self._say_at = 0.0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Break and compare. Raises ServiceMissing if something does not come back at all."""
        with Cluster(self._folder, self._home, self._redis_program, runtime=self._plan.runtime) as cluster:
            cluster.start()
            self._console.step(f"{len(cluster.roles)} roles are ready; seed {self._plan.seed}; {self._folder}")
            loader = Loader(
                cluster.settings,
                self._model,
                Workload(self._plan.seed, self._plan.documents, versions=self._plan.versions),
                self._plan.rate,
                self._plan.seed,
            )
            chaos = Chaos(cluster, fault_plan(self._plan.seed, self._plan.every_s), self._console.step)
            gateway, names = cluster.roles["search"].url, {role.url: name for name, role in cluster.roles.items()}
            stale = StalenessLog(gateway, names, chaos.recent)
            prober = Prober(gateway, self._model, self._plan.seed, stale)
            auditor = Auditor(cluster.settings, self._folder)
            for part in (loader, prober, auditor):
                part.start()
            began = time.monotonic()
            try:
                self._break(cluster, (loader, prober, auditor), chaos, began)
                broken_s = time.monotonic() - began
                cluster.wait_ready()
            finally:
                prober.finish()
                loader.finish()
                auditor.finish()
            self.outcome.add("while it ran", prober.drift, prober.findings)
            self.outcome.add("audits while it ran", auditor.drift, auditor.findings)
            self.outcome.figures |= {"audits": dict(auditor.counts), "audits_incomplete": auditor.incomplete}
            self.outcome.figures["stale"] = stale.figures()
            self._figures(cluster, prober, chaos, broken_s)
            self._compare(cluster)
        return self.outcome

    def _break(self, cluster: Cluster, parts: tuple[Loader, Prober, Auditor], chaos: Chaos, began: float) -> None:
        def more() -> bool:
            if self._plan.faults is not None:
                return chaos.done.total() < self._plan.faults
            return time.monotonic() - began < self._plan.seconds

        while (begin := more()) | chaos.step(begin=begin):
            for part in parts:
                if part.error is not None:
                    raise part.error
            cluster.tend()
            self._progress(parts[1], chaos)
            time.sleep(_STEP_S)

    def _compare(self, cluster: Cluster) -> None:
        settings = cluster.settings
        truth = read_truth(settings.brokers, settings.changes_topic, settings.partitions, self._model)
        (self._folder / "model.json").write_bytes(truth.as_json())
        self.outcome.add("log", Counter({"unlogged": len(truth.disagreements)}), truth.disagreements[:100])
        self.outcome.figures |= {"documents": len(truth.states), "unreported": truth.unreported}
        self._console.step(f"comparing {len(truth.states):,} documents of {sum(truth.ends.values()):,} events")
        began = time.monotonic()
        if not self._caught_up(cluster, truth.ends, "in the end"):
            return
        self.outcome.figures["caught_up_after_s"] = time.monotonic() - began
        self._audited("in the end", audit(cluster, truth))
        self._audited("dead letters", dead_letters(cluster, truth))
        self._audit_once(cluster)
        if self._plan.rebuild:
            replica = random.Random(f"rebuild {self._plan.seed}").choice(REPLICAS)
            began = time.monotonic()
            self._empty(cluster, replica)
            if self._caught_up(cluster, truth.ends, "rebuilt"):
                self.outcome.figures["rebuilt_after_s"] = time.monotonic() - began
                self._audited("rebuilt", audit(cluster, truth, (replica,)))
                self._audit_once(cluster)

    def _audit_once(self, cluster: Cluster) -> None:
        """Nothing is in the way any more: `headrace audit` must end with status 0."""
        found = run_audit(cluster.settings, self._folder)
        wrong = {**found.wrong, **({"incomplete": [found.incomplete]} if found.incomplete is not None else {})}
        self.outcome.figures["final_audit"] = ", ".join(wrong) or "clean"
        findings = [words for all_ in wrong.values() for words in all_]
        earlier = Counter(self.outcome.drift.get("final audit"))
        self.outcome.add(
            "final audit", earlier + Counter({kind: len(words) for kind, words in wrong.items()}), findings
        )

    def _empty(self, cluster: Cluster, replica: str) -> None:
        """Take everything from the index workers of a replica."""
        self._console.step(f"replica {replica} loses its data and is rebuilt from the vectors topic")
        names = [role.name for role in cluster.index_roles(replica)]
        cluster.busy |= set(names)
        for name in names:
            cluster.roles[name].terminate()
        for name in names:
            cluster.roles[name].ended(within_s=30)
            kept = cluster.data_dir(name)
            kept.rename(kept.with_name(f"{name}-before"))
            cluster.roles[name].start()
        cluster.busy.clear()
        cluster.wait_ready()

    def _caught_up(self, cluster: Cluster, ends: dict[int, int], when: str) -> bool:
        behind = wait_caught_up(cluster, ends)
        if behind:
            words = [f"{shard}: {said}" for shard, said in behind.items()]
            self.outcome.add(when, Counter({"not caught up": len(behind)}), words)
        return not behind

    def _audited(self, when: str, found: Audit) -> None:
        self.outcome.add(when, found.drift, found.findings)
        self._console.step(f"{when}: {found.checked:,} compared, {dict(found.drift) or 'no drift'}")

    def _figures(self, cluster: Cluster, prober: Prober, chaos: Chaos, broken_s: float) -> None:
        self.outcome.figures |= {
            "plan": asdict(self._plan),
            "broken_s": broken_s,
            "events": self._model.issued,
            "events_per_second": self._model.issued / broken_s,
            "unconfirmed": self._model.unconfirmed,
            "faults": dict(chaos.done),
            "killed_after_sigterm": chaos.stuck,
            "ended_with_an_error_after_sigterm": chaos.bad_exits,
            "ended_by_themselves": [asdict(death) for death in cluster.deaths],
            "queries": dict(prober.counts),
            "longest_s": prober.longest_s,
            "spells": prober.spells,
            "longest_staleness_ms": prober.longest_staleness_ms,
        }

    def _progress(self, prober: Prober, chaos: Chaos) -> None:
        text = (
            f"{self._console.elapsed_s():.0f} s  {chaos.done.total()} faults  {self._model.issued:,} events  "
            f"{prober.counts.total():,} queries  drift: {dict(prober.drift) or 'none'}"
        )
        if self._console.is_terminal:
            self._console.status(text)
        elif self._console.elapsed_s() >= self._say_at:
            self._say_at = self._console.elapsed_s() + _SAY_EVERY_S
            self._console.say(text)


@click.command()
@click.option("--seconds", default=600.0, show_default=True, type=click.FloatRange(min=1), help="How long to break.")
@click.option("--faults", type=click.IntRange(min=1), help="End after so many faults, in place of --seconds.")
@click.option("--every", default=4.0, show_default=True, type=click.FloatRange(min=0.1), help="Seconds between faults.")
@click.option("--rate", default=40.0, show_default=True, type=click.FloatRange(min=0.1), help="Changes per second.")
@click.option("--documents", default=400, show_default=True, type=click.IntRange(min=10), help="Most documents.")
@click.option("--seed", type=int, help="Of workload and faults; default: another each time, which is printed.")
@click.option(
    "--runtime",
    default="hashing",
    show_default=True,
    type=click.Choice(["hashing", "auto"]),
    help="hashing: a quick fake of a model; auto: the real one.",
)
@click.option("--versions/--no-versions", default=True, help="Give some documents versions, old ones among them.")
@click.option("--rebuild/--no-rebuild", default=True, help="Rebuild a replica in the end and compare it again.")
@click.option("--keep", is_flag=True, help="Keep the folder with logs and data, whatever comes out.")
@click.option("--name", default="soak", show_default=True, help="Of the files in bench/results.")
def soak(name: str, keep: bool, seed: int | None, every: float, **options: Any) -> None:
    """Break everything at random while documents change, then compare every document on every replica.

    Exit status 1 if any document is lost, stale, visible twice or back from deletion; the folder with logs, data and
    the model of what was published is then kept.
    """
    check_installed()
    plan = Plan(random.randrange(2**31) if seed is None else seed, every_s=every, **options)
    console = Console(out=sys.stderr)
    program = find_redis_server("system")
    folder = Path(tempfile.mkdtemp(prefix="headrace-soak-"))
    report = Report(name, "Fault soak: what is lost while everything breaks", "make soak", sys.argv[1:])
    outcome: Outcome | None = None
    try:
        if program is None:
            raise ServiceMissing(f"no Redis server on this machine: {INSTALL}")
        report.redis = redis_version(program)
        with until_stopped(), ExitStack() as exits:
            run = Soak(plan, folder, prepare(console.step), program, console)
            exits.callback(console.status, "")
            outcome = run.run()
    except HeadraceError as error:
        sys.exit(f"soak: {error}; seed {plan.seed}; everything is in {folder}")
    if outcome is None:
        sys.exit(f"soak: stopped before the end; seed {plan.seed}; everything is in {folder}")
    fill(report, plan.seed, outcome.drift, outcome.findings, outcome.figures)
    click.echo(report.write().read_text(encoding="utf-8"))
    if outcome.drifted:
        (folder / "outcome.json").write_bytes(orjson.dumps(asdict(outcome), option=orjson.OPT_INDENT_2))
        sys.exit(
            f"soak: {outcome.drifted} pieces of drift; seed {plan.seed}; logs, data and model.json are in {folder}"
        )
    if keep:
        click.echo(f"logs, data and model.json are in {folder}", err=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    soak()
