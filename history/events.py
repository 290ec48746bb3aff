"""The vocabulary of the history: one line of JSON per event, the same for every producer.

Envelope (written by `history.writer.HistoryWriter`): `node`, `boot`, `seq` (from 0 per boot), `mono_s`
(CLOCK_MONOTONIC; comparable between processes of one host), `wall_s` (Unix time), `event`, and `fields`, an object with
what is listed below, so that a field may be named like a key of the envelope.
Readers ignore fields they do not know and never guess missing ones. Times in seconds, sizes in bytes, rates in bit/s.
A coordinator that starts again says once more, with `restored: true`, what its journal knows and its file lacks.

coordinator
  run_started       run, epoch, devices, parameters
  status_served     url                                      (of this start; over once the coordinator ends)
  agent_online      agent, boot            / agent_offline  agent, boot
  hello             agent, boot, version, task, spool, unsettled
  round_opened      round, version, cohort: [agent] (who may give it an update), target, carried (tasks and updates of
                    rounds before), deadline_s, quorum
  tiers_cut         tiers: [[agent]], fastest first; since (the first version they make)   (policy: fedat; with every
                    cut, and once a start)
  losses_wanted     task, round, version, candidates: [agent], deadline_s   (selection: power_of_choice)
  loss_probed       task, agent, round, version, loss, samples, fetch_bytes, bytes (of the answer)
  losses_known      task, round, version, known, silent: [agent], wall_s
  task_opened       task, agent, round, version, deadline_s
  compression_chosen task, agent, share, bits, quantize, budget_bytes, rate_bit_s, measured, slope, reason
                                                             (with `compression: auto`, for every task)
  task_progress     task, agent, phase                       (on change of phase only)
  update_offered    task, agent, sha256, bytes, report: {...Report fields}
  update_granted    task, agent, sha256
  update_received   task, agent, sha256, bytes, payload_bytes (all chunk payloads, resends and headers included), chunks
                    (0: it came in its offer, of which only its own bytes count)
  update_journalled task, agent, sha256                      (after the returned fsync)
  update_acked      task, agent, sha256
  update_discarded  task, agent, sha256, outcome (late|surplus|stale|refused), reason
  task_closed       task, agent, round, reason,
                    state (merged|late|surplus|stale|refused|failed|timed_out|cancelled|dropped)
  version_committed version, sha256, round, updates: [{task, agent, sha256, weight, samples, factor,
                    version (trained on), staleness}]
  version_published version, objects: [{name, bytes, chunks}], control (sha256 of c's bit patterns, where there is one)
  round_closed      round, version, merged, missing: [agent], reason, wall_s
  evaluated         version, round, accuracy (null: a regression), loss, samples, per_class: [...],
                    metrics: {f1, mse, perplexity}, confusion: [[...]] (true, predicted; at most 32 classes)
  tested_locally    agent, task, round (null: the survey at the end), version, received: {samples, loss, answers,
                    correct} or null, personal: the same or null      (a device's own tests, as it says)
  drift             version, round, updates: [{task, agent, norm, cosine (null: a zero vector)}]
  waiting           round, have, want, need (updates of the version that is made),
                    for: [{agent, phase, since_s, until_s, task, version, heard_s}]   (at most one in 5 s)
  message_refused   agent, topic, reason, bytes, count
  broker_sample     dropped, received_bytes, sent_bytes      ($SYS; a moved drop counter is a lapse)
  lapse             what, node, requested, effective, detail
  run_finished      reason (target|rounds|failed), version, accuracy

agent
  agent_started     software, threads                 gate_passed      token, waited_s
  connected         session_present                   disconnected     reason
  task_received     task, round, version              model_fetched    task, version, object, bytes, wall_s
  trained           task, samples, steps, loss, train_s, step_s, peak_rss_bytes
  loss_evaluated    task, loss, samples, wall_s       (of a task that asked for a loss only)
  encoded           task, sha256, bytes, raw_bytes, residual_norm, residual_share (of the old one that came in)
  spooled           task, sha256                      sent             task, payload_bytes, chunks, resent (chunks 0:
                                                      it is on its way, in its offer; else the broker has all of it)
  acked             task, sha256                      settled          task, outcome, residual_norm
  cancelled         task, reason                      failed           task, reason
  surveyed          task, figures: {version, received, personal}
  message_refused   topic, reason                     agent_stopped    reason, peak_rss_bytes
  traffic           mqtt_sent, mqtt_received, wire_sent, wire_received, wire      (bytes since the boot, at most one
                    in 5 s and one at the end; `wire` is where the wire's two figures come from, empty: nowhere)
  misbehaviour      active: [fault], done: {kind: n}  (on change; a device that a fault tells to do wrong)

hostd
  probed            kernel, docker, cgroup, backend, reason, checks: {...}
  container_started node, boot, pid                   container_died   node, boot, exit_code
  link_applied      device, backend, requested: {up, down}, readback: {...}
  link_varied       device, at_s (since ready), up: {rate_bit_s, delay_s, jitter_s, loss}, down: {...}
  link_verified     device, boot, directions: {up: {requested: {rate_bit_s, delay_s, jitter_s, loss},
                    effective: {...}, error: {...}, ok}, down: {...}}, ok
  cpu_verified      device, requested, effective, error, ok
  gate_opened       node, token                       ready            devices, wall_s
  fault_armed       fault, kind, trigger, targets     fault_applied    fault, kind, targets, lateness_s
  fault_verified    fault, ok, detail                 fault_healed     fault, targets, wall_s, final, left_stopped
  cpu_sample        device, usage_s, throttled_s, periods, throttled_periods, run_delay_s (not explained by its quota)
  power_sample      device, charge, charge_j, plugged, available
  power_off         device, effect, reason, ok, detail  power_on        device, effect, reason, ok, detail
  link_sample       device, up_bytes, down_bytes, up_packets, down_packets, dropped
  lapse             what, node, requested, effective, detail
  healed_all        reason, left: [...]                  orphaned         (the runner is dead: the host is cleared)

runner
  up                services, images, compose     interrupted      signal
  down              reason                        phase            name, wall_s
  cleaned           left: [...]                   (what of the run was still there after the teardown)
"""

from __future__ import annotations

from msgspec import Struct

COORDINATOR = "coordinator"
HOST_NODES = frozenset({"hostd", "runner", "processes", "relay"})
TRUSTED = HOST_NODES | {COORDINATOR}  # our own services; everybody else is a device


class Event(Struct, frozen=True, kw_only=True):
    """One event of the history; `fields` is everything but the envelope."""

    node: str
    boot: str
    seq: int
    mono_s: float
    wall_s: float
    event: str
    fields: dict[str, object]

    def __getitem__(self, key: str) -> object:
        return self.fields[key]

    def get(self, key: str, default: object = None) -> object:
        return self.fields.get(key, default)
