# A machine that boots systemd and that ansible reaches by ssh, for tests of deploy/ansible. The context
# is the repository. /wheels.tar.gz has rtprov with all its dependencies, /next.tar.gz the same as
# version 99.
FROM python:3.13-slim AS wheels
RUN python3 -m venv /builder
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE /source/
COPY rtprov /source/rtprov
COPY twisted /source/twisted
RUN /builder/bin/pip wheel --quiet --wheel-dir /wheels /source \
 && cp -r /wheels /next && rm /next/rtprov-*.whl \
 && sed -i 's/^__version__ = .*/__version__ = "99"/' /source/rtprov/__init__.py \
 && rm -rf /source/build \
 && /builder/bin/pip wheel --quiet --no-deps --wheel-dir /next /source \
 && for name in wheels next; do tar -czf /$name.tar.gz -C /$name .; done

FROM python:3.13-slim
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      systemd systemd-sysv openssh-server python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && systemctl set-default multi-user.target \
 && systemctl mask console-getty.service getty.target systemd-logind.service rabbitmq-server.service \
 && printf 'UsePAM no\nPermitRootLogin prohibit-password\nMaxStartups 100\n' >/etc/ssh/sshd_config.d/trial.conf
COPY --from=wheels /wheels.tar.gz /next.tar.gz /
ENV container=docker
STOPSIGNAL SIGRTMIN+3
# Credentials reach a service only if its mount namespace gets what is mounted later.
CMD ["sh", "-c", "mount --make-rshared / && exec /sbin/init"]
