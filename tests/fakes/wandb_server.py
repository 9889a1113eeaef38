"""What of a W&B server its client's upload and its sweep agent talk to, on this machine: answers, refuses or hangs as a
test says, and keeps what came.
"""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class WandbServer:
    """A context manager; clients find it by ``url``.

    Attributes:
        mode: ``answers``, ``refuses`` (503) or ``hangs``. requests: how many came.
        history: run id → number of the row → row. exits: run id → exit codes. upserts: variables of each creation of
            a run. files: names of those that were uploaded. artifacts: names.
        sweep: of ``wandb sweep``, as it came. suggestions: run id → parameters, for the sweep's agents one after the
            other; then they are told to end, but by a sweep with a controller of its own.
        suggested: run id → parameters, of such a controller, ``max_suggestions`` at most.
    """

    def __init__(self) -> None:
        self.mode, self.requests = "answers", 0
        self.history: dict[str, dict[int, dict[str, Any]]] = {}
        self.exits: dict[str, list[int]] = {}
        self.upserts: list[dict[str, Any]] = []
        self.files: set[str] = set()
        self.artifacts: list[str] = []
        self.sweep = ""
        self.suggestions: dict[str, dict[str, Any]] = {}
        self.suggested: dict[str, dict[str, Any]] = {}
        self.max_suggestions = 0
        self._controller = "{}"
        self._scheduled: list[dict[str, str]] = []
        self._over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                """Silence."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests += 1
                while server.mode == "hangs" and not server._over.wait(0.05):
                    pass
                if server.mode != "answers":
                    return self._reply({}, 503)
                if self.path == "/graphql":
                    return self._reply({"data": server._answer(json.loads(body))})
                if self.path.endswith("/file_stream"):
                    server._stream(self.path.split("/")[-2], json.loads(body))
                self._reply({"limits": {}})

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.files.add(self.path.removeprefix("/upload/"))
                self._reply({})

            def _reply(self, document: dict[str, Any], code: int = 200) -> None:
                content = json.dumps(document).encode()
                with contextlib.suppress(OSError):
                    self.send_response(code)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that was stopped."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        """Of a run's history, in order; a gap is an error."""
        rows = self.history.get(run_id, {})
        assert sorted(rows) == list(range(len(rows)))
        return [rows[number] for number in sorted(rows)]

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        variables, what = request.get("variables") or {}, request.get("operationName")
        if not what:  # it is named in the query alone
            what = request["query"].split("(")[0].split("{")[0].split()[-1]
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
        if what == "UpsertBucket":
            self.upserts.append(variables)
            bucket = {"id": "b", "name": variables["name"], "displayName": "d", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if what == "RunResumeStatus":
            rows = self.history.get(variables["name"])
            last = json.dumps(rows[max(rows)]) if rows else ""
            counts = {f"{name}LineCount": 0 for name in ("log", "events")} | {"historyLineCount": len(rows or ())}
            tails = {"historyTail": json.dumps([last]), "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
            bucket = {"id": "b", "name": variables["name"], "summaryMetrics": "{}", "config": "{}", **counts, **tails}
            return {"model": {**project, "bucket": bucket if rows else None}}
        if what == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if what == "CreateArtifact":
            self.artifacts.append(variables["input"]["artifactCollectionName"])
            artifact = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
            return {"createArtifact": {"artifact": artifact}}
        return self._answer_about_sweep(what, variables, project)

    def _answer_about_sweep(self, what: str, variables: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
        if what == "UpsertSweep":
            self.sweep = variables["config"]
            self._schedule(variables.get("controller") or "{}")
            return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}
        if what == "SweepWithRuns":
            runs = {"edges": [{"node": self._run_of_sweep(run_id)} for run_id in self.suggested]}
            scheduler = json.dumps({"scheduled": self._scheduled})
            states = {"state": "FINISHED" if self._sweep_is_over else "RUNNING", "runs": runs}
            controller = {"controller": self._controller, "scheduler": scheduler}
            return {"project": {"sweep": {"id": "s", "name": "sweep1", "config": self.sweep, **states, **controller}}}
        if what == "CreateAgent":
            return {"createAgent": {"agent": {"id": "agent1"}}}
        if what == "Heartbeat":
            commands: list[dict[str, Any]] = [{"type": "exit"}] if self._sweep_is_over else []
            if json.loads(variables["runState"]):  # one is under way
                commands = []
            elif self.suggestions:
                run_id, values = self.suggestions.popitem()
                arguments = {name: {"value": value} for name, value in values.items()}
                program = yaml.safe_load(self.sweep)["program"]
                commands = [{"type": "run", "run_id": run_id, "program": program, "args": arguments}]
            return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(commands)}}
        if what == "Viewer":  # whose key it is
            account = {"id": "v", "name": "me", "username": "me", "email": "", "entity": "me", "admin": False}
            return {"viewer": {**account, "flags": "{}", "teams": {"edges": []}, "apiKeys": {"edges": []}}}
        return {}

    @property
    def _sweep_is_over(self) -> bool:
        """Of one with a controller of its own, once all runs that it may suggest have ended."""
        return (
            not self.suggestions
            and all(run_id in self.exits for run_id in self.suggested)
            and (len(self.suggested) == self.max_suggestions)
        )

    def _schedule(self, controller: str) -> None:
        """Make a run of each suggestion of a sweep's own controller that is new."""
        self._controller = controller
        known = {entry["id"] for entry in self._scheduled}
        for entry in json.loads(controller).get("schedule", []):
            if entry["id"] not in known and len(self.suggested) < self.max_suggestions:
                run_id = f"run{len(self.suggested) + 1}"
                values = {name: argument["value"] for name, argument in entry["data"]["args"].items()}
                self._scheduled.append({"id": entry["id"], "runid": run_id})
                self.suggested[run_id] = self.suggestions[run_id] = values

    def _run_of_sweep(self, run_id: str) -> dict[str, Any]:
        """What a sweep's controller is told of a run."""
        begun = any(upsert["name"] == run_id for upsert in self.upserts)
        state = "finished" if self.exits.get(run_id) == [0] else "running" if begun else "pending"
        rows = self.rows(run_id)
        summary: dict[str, Any] = {}
        for row in rows:
            summary |= row
        config = {name: {"value": value} for name, value in self.suggested[run_id].items()}
        told = {"config": json.dumps(config), "summaryMetrics": json.dumps(summary), "sampledHistory": [rows]}
        return {"name": run_id, "state": state, "stopped": False, "shouldStop": False, **told}

    def _stream(self, run_id: str, message: dict[str, Any]) -> None:
        rows = (message.get("files") or {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for number, row in enumerate(rows["content"], rows["offset"]):
            self.history.setdefault(run_id, {})[number] = json.loads(row)
        if message.get("complete"):
            self.exits.setdefault(run_id, []).append(message["exitcode"])
