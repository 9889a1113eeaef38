"""An inference server says when its loop hangs, for whoever watches it."""

import threading

from distrl.actors.inference_server import InferenceServer
from tests.actors.test_inference import Untrained, Versions, request
from tests.fakes.processes import wait_until


def test_a_report_tells_how_long_the_loop_has_stood_still():
    class Hanging(Untrained):
        began, over = threading.Event(), threading.Event()

        def step(self, *arguments):
            self.began.set()
            self.over.wait(30)
            return super().step(*arguments)

    stop, policy = threading.Event(), Hanging()
    server = InferenceServer(policy, Versions(), 4, 0.0)
    loop = threading.Thread(target=server.run, args=(stop, True))
    loop.start()
    asked = server.ask(*request(1))
    assert policy.began.wait(30)
    assert wait_until(lambda: server.report()["still_s"] > 0.5), "it grows while the policy hangs"
    policy.over.set()
    asked.result(timeout=30)
    assert wait_until(lambda: server.report()["still_s"] < 0.5), "it comes round again, though nobody asks"
    stop.set()
    loop.join(30)
