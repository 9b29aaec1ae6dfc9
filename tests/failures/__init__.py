"""How file servers have failed, and the test here that would notice.

The classes were collected from advisories, bug trackers and runs of other servers. Tests in this folder run
the real command; those named with a path stand elsewhere.

Out of the root, or at hidden files
    dot segments, double decoding, NUL, names of devices   protocol/test_target.py, content/test_files.py
    prefixes compared as strings                           content/test_files.py
    links out of the root; the same by index or twin       content/test_files.py
    check, then open                                       test_races.py TestContainment
    a trailing slash follows the link                      content/test_files.py
    ".." out of a folder that is moved meanwhile           test_races.py TestContainment
    hidden names in another spelling                       content/test_files.py

Framing and parsing
    two lengths, chunk games, bare LF, two Hosts           protocol/test_http1.py, test_cases.py
    a body read as the next request                        network/test_connection.py, test_cases.py
    a field in the answer that the client wrote            protocol/test_http1.py

Using up the machine
    slow heads, bodies, readers                            network/test_stream.py, benchmarks/soak.py
    an endless request line, head, trailer, extension      test_exhaustion.py TestEndlessRequests
    tiny chunks                                            test_exhaustion.py TestEndlessRequests
    pipelining without reading                             test_exhaustion.py TestMemory
    memory of slow readers, of those who left              test_exhaustion.py TestMemory
    ranges: many, overlapping, quadratic                   protocol/test_ranges.py
    descriptors: a busy loop, a flood of lines, 404        test_exhaustion.py TestDescriptors
    descriptors that nobody closes                         test_exhaustion.py TestDescriptors
    every thread held by slow files                        test_disk.py TestStandingStill
    every thread held by FIFOs                             test_races.py TestReplacement

Wrong bytes
    stat, then open: two versions mixed                    test_races.py TestReplacement
    one tag for two contents                               test_races.py TestReplacement
    ranges of two versions put together                    test_races.py TestReplacement
    a name that comes and goes                             test_races.py TestReplacement
    cut, grown, rewritten, replaced during the transfer    test_races.py TestChangeDuringTheTransfer
    two releases mixed                                     test_races.py TestDeploy
    an error page inside a body, a short body              test_disk.py TestFailing
    404 for a disk that fails                              test_disk.py TestFailing
    If-Range with the wrong tag                            protocol/test_conditional.py
    2^31 and 2^32                                          protocol/test_ranges.py

Against the reader of the answer
    another host in a redirect                             protocol/test_target.py
    a path, an errno or a traceback in an error page       protocol/test_plan.py
    escapes and forged lines in the log                    test_exhaustion.py TestLog

Life
    a stop that cuts downloads, or waits for idle ones     test_life.py TestStop
    a stop that waits for a disk                           test_disk.py TestStandingStill
    a second server on the port; TIME_WAIT; a crash        test_life.py TestPort
    a root that is removed, replaced, switched             test_life.py TestRoot, test_races.py TestDeploy
    an output that stands still or is gone                 test_life.py TestOutput
    resets, and what asyncio says of them                  test_exhaustion.py TestResets
"""
