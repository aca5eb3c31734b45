"""Packaging. `twisted.plugins` is a package of ours without an ``__init__``: that is how twistd
finds plugins (see twisted.plugin).
"""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "rtprov" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="rtprov",
    version=version,
    description=(
        "An asynchronous HTTPS interface, through an AMQP broker, for a synchronous equipment"
        " provisioning service"
    ),
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["rtprov", "rtprov.*"]), "twisted.plugins"],
    package_data={"rtprov": ["py.typed"], "twisted": ["plugins/rtprov_plugin.py"]},
    install_requires=[
        "attrs>=23.1",
        "cryptography>=42",
        "klein>=24.8",
        "msgspec>=0.19",
        "pamqp>=3.3,<4; python_version < '3.11'",
        "pamqp>=4,<5; python_version >= '3.11'",
        "pyopenssl>=25.3",
        "service-identity>=24.1",
        "tomli>=2; python_version < '3.11'",
        "treq>=24.9",
        "trustme>=1.2",
        "twisted[tls]>=26.10",
        "txamqp==0.8.2",
        "werkzeug>=3",
    ],
    extras_require={
        "test": [
            "aio-pika>=9,<10; python_version < '3.11'",
            "aio-pika>=10,<11; python_version >= '3.11'",
            "coverage[toml]>=7.10,<8",
            "hypothesis>=6,<7",
            "pika>=1.3,<2",
            "schemathesis>=4,<5",
            "setuptools>=70.1",
        ],
    },
    classifiers=[
        "Framework :: Twisted",
        "Intended Audience :: Telecommunications Industry",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
)
