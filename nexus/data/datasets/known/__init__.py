"""Benchmarks of classification as people have them on disk: found by `--data FOLDER`, their sizes checked.

::

    imagenet         ImageNet-1k: train/<wnid>/, val/ flat or in folders, also as the Kaggle download has it
    imagenet_labels  what the flat validation images show, from any of the files that say so
    shifted          ImageNet-V2, -R, -A and -Sketch
    inaturalist      iNaturalist 2017 to 2021, by their JSON files
    places           Places205 and Places365, by their lists
    sizes            how many images there should be
    recognition      which of them lies in a folder
"""
