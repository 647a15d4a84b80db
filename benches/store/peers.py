"""What the scripts here share of rclone: its configuration for the engine."""

import os
import re
from pathlib import Path


def credentials(file):
    """The id and the secret of a file in the form of ~/.aws/credentials."""
    text = Path(file).read_text()
    value = lambda key: re.search(rf"{key}\s*=\s*(\S+)", text).group(1)
    return value("aws_access_key_id"), value("aws_secret_access_key")


def without_proxy():
    """This environment; a proxy's certificates are no concern of an engine on this machine."""
    return {k: v for k, v in os.environ.items() if k != "AWS_CA_BUNDLE"}


def rclone(work, endpoint, keys):
    """The command that begins each of rclone's, whose remote `e:` is the engine."""
    config = Path(work) / "rclone.conf"
    config.write_text(f"[e]\ntype = s3\nprovider = Ceph\nendpoint = {endpoint}\n"
                      f"access_key_id = {keys[0]}\nsecret_access_key = {keys[1]}\n")
    return ["rclone", "--config", config]
