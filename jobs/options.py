"""Arguments and options that several commands take, worded once."""

from typing import Annotated

import typer

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="A tree of GENERATOR/0_real and GENERATOR/1_fake, or a manifest.")
]
_MODEL = "A bundled model's name, a checkpoint folder, s3://bucket/prefix or hf://org/name."
Model = Annotated[str, typer.Option(help=_MODEL)]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)]
NewCheckpoint = Annotated[
    str, typer.Option(help="The folder of the new checkpoint; it is to be empty, or not there yet.")
]
Address = Annotated[
    str | None,
    typer.Option(help="A Ray cluster: auto on one of its nodes, else HEAD:6379. Without it one is started here."),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Scoring processes; default: one per GPU, else one per CPU core.")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Images the detector is given at once; default: 256 on a GPU, else 32.")
]
AllowHttp = Annotated[bool, typer.Option("--allow-http", help="Read http(s) uris, from public addresses only.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
