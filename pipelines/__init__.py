"""The tasks, one file each: input files in, output files out."""

from visionzoo.registry import register_pipeline

register_pipeline(
    "classify",
    factory="visionzoo.pipelines.classify:ClassifyPipeline",
    command="visionzoo.pipelines.classify.command:app",
    summary="say what pictures show: the most probable classes, with their probabilities",
)
register_pipeline(
    "dehaze",
    factory="visionzoo.pipelines.dehaze:DehazePipeline",
    command="visionzoo.pipelines.dehaze.command:app",
    summary="take haze off pictures of any size and off videos",
)
register_pipeline(
    "reenact",
    factory="visionzoo.pipelines.reenact:ReenactPipeline",
    command="visionzoo.pipelines.reenact.command:app",
    summary="make a still face move like the one in a video",
)
register_pipeline(
    "retrieve",
    factory="visionzoo.pipelines.retrieve:RetrievePipeline",
    command="visionzoo.pipelines.retrieve.command:app",
    summary="find the photos of a folder that show the same thing as an example photo",
)
