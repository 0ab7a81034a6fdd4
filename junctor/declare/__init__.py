"""Resources as files: reading them, comparing them with what is there, and the requests that make the two agree.

Pure but for :mod:`junctor.declare.execute`, which sends; the commands are in :mod:`junctor.cli.declaring`.
"""
