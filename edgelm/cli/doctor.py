"""edgelm doctor: what this machine has to run packages with, and what to do about what is missing."""

from __future__ import annotations

import json

import click

from edgelm.doctor import Finding, examine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Examine this machine: ONNX Runtime, providers, operators, processor, memory, folders.

    Each problem is followed by a line of advice. The exit code is 1 only where edgelm cannot run at all.
    """
    findings: list[Finding] = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            click.echo(f"{'problem' if finding.advice else 'ok':<8}{finding.name:<22}{finding.detail}")
            if finding.advice:
                click.echo(f"{'':<8}{finding.advice}")
    usable = not any(finding.fatal for finding in findings)
    if as_json:
        click.echo(json.dumps({"usable": usable, "findings": [vars(finding) for finding in findings]}))
    if not usable:
        raise click.exceptions.Exit(1)
