"""How file servers have failed, and the test here that would notice.

The classes were collected from advisories, bug trackers and runs of other servers. The tests of this folder
run the real command. A name is that of a file here, below tests/, or below the project, and of a class in it;
test_architecture.py checks that they exist.

Out of the root, or at hidden files
    dot segments, double decoding, NUL       protocol/test_target.py TestRemoveDotSegments
    names of devices, streams, short names   content/test_containment.py TestNames
    prefixes compared as strings             content/test_containment.py TestContainment
    links out of the root                    content/test_containment.py TestContainment, test_random_trees.py
    the same by an index or an error page    content/test_site.py TestNotFound, test_random_trees.py
    check, then open                         test_races.py TestContainment
    a trailing slash follows the link        content/test_containment.py TestContainment
    ".." out of a folder that is moved       test_races.py TestContainment
    hidden names in another spelling         content/test_site.py TestHiddenNames, test_random_trees.py

Framing and parsing
    two lengths                              protocol/test_http1.py TestContentLength, test_cases.py
    chunk games                              protocol/test_http1.py TestChunkedTransferCoding, test_cases.py
    bare LF                                  protocol/test_http1.py TestMessageParsing, test_cases.py
    two Hosts                                protocol/test_http1.py TestHost, test_cases.py
    read differently by others               protocol/test_parsers_compared.py
    a body read as the next request          network/test_connection.py TestRequestBodies, test_cases.py
    a field of the answer by the client      protocol/test_http1.py TestStatusLineAndFields

Using up the machine
    slow heads and bodies                    network/test_connection.py TestTimeouts, benchmarks/soak.py
    slow readers                             network/test_stream.py TestSendTimeout, benchmarks/soak.py
    an endless line, head, trailer, chunk    test_exhaustion.py TestEndlessRequests
    tiny chunks                              test_exhaustion.py TestEndlessRequests
    pipelining without reading               test_exhaustion.py TestMemory
    memory of slow readers, of who left      test_exhaustion.py TestMemory
    ranges: many, overlapping, quadratic     protocol/test_ranges.py
    descriptors: a busy loop, a flood, 404   test_exhaustion.py TestDescriptors
    descriptors that nobody closes           test_exhaustion.py TestDescriptors
    every thread held by slow files          test_disk.py TestStandingStill
    every thread held by FIFOs               test_races.py TestReplacement

Wrong bytes
    stat, then open: two versions mixed      test_races.py TestReplacement
    one tag for two contents                 test_races.py TestReplacement
    ranges of two versions put together      test_races.py TestReplacement
    a name that comes and goes               test_races.py TestReplacement
    changed during the transfer              test_races.py TestChangeDuringTheTransfer
    two releases mixed                       test_races.py TestDeploy
    an error page in a body, a short body    test_disk.py TestFailing
    404 for a disk that fails                test_disk.py TestFailing
    a file system without sendfile           test_disk.py TestWithoutSendfile
    If-Range with the wrong tag              protocol/test_conditional.py TestIfRange
    2^31 and 2^32                            protocol/test_ranges.py

Against the reader of the answer
    another host in a redirect               protocol/test_target.py TestFolderLocation
    a path or an errno in an error page      content/test_site.py TestErrors
    a traceback in an error page             network/test_connection.py TestDefects
    escapes and forged lines in the log      test_exhaustion.py TestLog

Life
    a stop that cuts, or waits for the idle  test_life.py TestStop
    a stop that waits for a disk             test_disk.py TestStandingStill
    a second server; TIME_WAIT; a crash      test_life.py TestPort
    a root that is removed or replaced       test_life.py TestRoot
    a root that is switched                  test_races.py TestDeploy
    an output that stands still or is gone   test_life.py TestOutput
    a worker that dies, once or always       network/test_workers.py TestDeath
    a parent that dies, a worker that hangs  network/test_workers.py TestEnd
    lines of several processes that mix      network/test_workers.py TestLog
    resets, and what asyncio says of them    test_exhaustion.py TestResets
"""
