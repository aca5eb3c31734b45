# A machine that boots systemd, with rtprov's units: for tests of deploy/systemd, which is the build's
# context. RTPROV is the image of the build stage of deploy/Dockerfile.
ARG RTPROV
FROM ${RTPROV} AS rtprov

FROM python:3.13-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd systemd-sysv \
 && rm -rf /var/lib/apt/lists/* \
 && systemctl set-default multi-user.target \
 && systemctl mask console-getty.service getty.target systemd-logind.service
COPY --from=rtprov /opt/rtprov /opt/rtprov
COPY *.service *.socket *.target /etc/systemd/system/
COPY rtprov.sysusers /usr/lib/sysusers.d/rtprov.conf
COPY rtprov.tmpfiles /usr/lib/tmpfiles.d/rtprov.conf
COPY watched-files.conf /usr/share/rtprov/
RUN systemd-sysusers rtprov.conf && systemd-tmpfiles --create rtprov.conf \
 && /opt/rtprov/bin/python -m rtprov.certs /etc/rtprov/certs
ENV container=docker
STOPSIGNAL SIGRTMIN+3
# Credentials reach a service only if its mount namespace gets what is mounted later.
CMD ["sh", "-c", "mount --make-rshared / && exec /sbin/init"]
