"""The tasks, one file each: input files in, output files out."""

from visionzoo.registry import register_pipeline

register_pipeline(
    "retrieve",
    factory="visionzoo.pipelines.retrieve:RetrievePipeline",
    command="visionzoo.pipelines.commands.retrieve:app",
    summary="find the photos of a folder that show the same thing as an example photo",
)
