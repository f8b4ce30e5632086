import time

from tests.test_inbox_at_once import *


def test_prof(shell, folders):
    dice = random.Random(40)
    for n, rows in enumerate([1, 1, 1, 10, 50, 100, 100, 300, 500, 500]):
        drop(good_file(n, rows, 0, dice, shell.folder), folders)
    shell.environment["PREFECT_LOGGING_LEVEL"] = "INFO"
    t = time.time()
    with shell.start_program(
        "import time,resource; t=time.time()\nimport asyncio; from flows.watch_inbox import watch_inbox\nprint('import', time.time()-t)\nt=time.time()\nprint(asyncio.run(watch_inbox(return_state=True)).message)\nprint(time.time()-t, resource.getrusage(resource.RUSAGE_SELF))"
    ) as p:
        out, err = p.communicate(timeout=100)
    print(out)
    print(err)
    print(time.time() - t)
