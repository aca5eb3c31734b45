"""Tells twistd of rtprov's commands."""

from twisted.application.service import ServiceMaker

rtprov = ServiceMaker("rtprov", "rtprov.tap.all_in_one", "Asynchronous provisioning: everything in one process", "rtprov")
stub = ServiceMaker("rtprov stub", "rtprov.tap.stub", "Asynchronous provisioning: service A, a stub", "rtprov-stub")
frontend = ServiceMaker("rtprov front end", "rtprov.tap.frontend", "Asynchronous provisioning: service B", "rtprov-frontend")
worker = ServiceMaker("rtprov worker", "rtprov.tap.worker", "Asynchronous provisioning: the worker", "rtprov-worker")
broker = ServiceMaker("rtprov broker", "rtprov.tap.broker", "Asynchronous provisioning: the embedded broker", "rtprov-broker")
