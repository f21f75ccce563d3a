"""osteomet finds bone metastases in CT and predicts whether their primary is lung cancer.

Read the files in the order of the data flow; each line is one step::

    errors.py                         what a user can cause and fix
    config.py                         all settings, from TOML, kept in the weights
    volume.py                         CT voxels (z, y, x) and their place in the patient, LPS mm
    structures.py                     targets, proposals and detections: what stages hand over
    findings.py                       what was found, frozen, to and from JSON: the border
    checkup.py                        what was measured and found in a cohort, likewise
    ahead.py                          work that threads do ahead of its use
    label_map.py                      instances on a grid, as pieces and not as a whole array
    box_arrays.py                     overlap of boxes in NumPy, for what needs no torch

    io/scan.py                        any file or folder -> scan
    io/scan_record.py                 the scan: volume, where it came from, warnings
    io/dicom.py                       a DICOM series: find, choose, order, decode, place
    io/dicom_files.py                 files of a folder, a zip, or beside one file
    io/dicom_headers.py               one record per image, before its pixels
    io/multiframe.py                  Enhanced CT: many images in one file
    io/series_choice.py               which of several series
    io/repeated_slices.py             copies, phases and overlaps at one position
    io/slice_geometry.py              positions of slices -> one grid, or why there is none
    io/pixels.py                      stored pixels -> HU, plane by plane
    io/hounsfield.py                  padding, overflow, and whether values can be HU at all
    io/volumes.py                     NIfTI, NRRD and MetaImage, read and written
    io/nifti.py                       what SimpleITK does not tell about a NIfTI header
    io/nifti_writer.py                label maps as NIfTI files, slab by slab
    io/dicom_writer.py                a volume -> a valid CT series
    io/dicom_folder.py                the series below a folder, and which a drawing belongs to
    io/regions.py                     regions drawn by others -> one label map on the scan's grid
    io/dicom_seg.py                   DICOM SEG -> regions
    io/rtstruct.py                    contours of an RT Structure Set -> regions
    io/png_stack.py                   slices stored as PNG -> HU

    ops/boxes.py                      volume, IoU, GIoU, deltas, clipping
    ops/nms.py                        suppression and weighted clustering of boxes
    ops/roi_align.py                  features inside boxes, with gradient
    ops/roi_align_kernels.py          its loops on a CPU
    ops/masks.py                      label map -> crops of boxes -> voxels
    ops/depthwise_conv.py             7 x 7 x 7 per channel, with a fast gradient
    ops/depthwise_kernels.py          its loops on a CPU
    ops/depthwise_small.py            those for maps of at most 4 voxels a side
    ops/depthwise_sparse.py           gradients that are zero at most voxels
    ops/dense_conv.py                 3 x 3 x 3 of all channels, likewise
    ops/winograd.py                   its loops on a CPU, with a third of the products
    ops/gelu.py                       GELU and its derivative
    ops/inverted_bottleneck.py        both maps of a ConvNeXt-V2 block, GELU and GRN between
    ops/row_products.py               linear maps of each voxel's few channels
    ops/layer_norm.py                 LayerNorm of few channels
    ops/anchor_claims.py              which anchors a lesion claims, in loops
    ops/binary_losses.py              cross-entropy and overlap of masks, in one pass
    ops/response_norm.py              GELU, GRN and the linear map behind, in few passes
    ops/space_to_depth.py             cubes of voxels into channels, and back
    ops/acceleration.py               compiled loops, and the switch that turns them off
    ops/lanes.py                      whole registers of the processor in compiled loops
    ops/lane_transforms.py            fixed matrices times registers
    ops/minimal_filtering.py          the matrices of Winograd's and Toom's filters
    ops/freed_memory.py               keep freed memory for the next tensor of its size

    data/manifest.py                  cohort.csv, and its split by patient
    data/manifest_writer.py           scans -> cohort.csv
    data/splits.py                    who trains, validates and tests: protocols
    data/annotations.py               masks, boxes and ignored regions of a scan
    data/importing.py                 a data set of any format -> a cohort
    data/adapters/drafts.py           what an adapter is asked, and what it gives for each scan
    data/adapters/grids.py            does a mask lie on its scan's grid?
    data/adapters/tables.py           tables of public data sets
    data/adapters/patients.py         a user's table of patients
    data/adapters/dicom_scans.py      a CT series and the drawings on it -> a scan of a cohort
    data/adapters/bone.py             which of a body's lesions lie in bone
    data/adapters/nifti_pairs.py      volumes and masks that names tell apart
    data/adapters/dicom_drawings.py   CT series with DICOM SEG or RTSTRUCT
    data/adapters/nnunet.py           nnU-Net and Medical Segmentation Decathlon
    data/adapters/nndetection.py      nnDetection
    data/adapters/monai.py            MONAI's datalists for detection
    data/adapters/blds.py             BLDS: boxes alone
    data/adapters/uls23.py            ULS23: one lesion a crop
    data/adapters/spine_mets.py       Spine-Mets-CT-SEG: vertebrae that have lesions
    data/adapters/myeloma.py          Spinal-Multiple-Myeloma-SEG
    data/adapters/autopet.py          FDG-PET-CT-Lesions and autoPET: lesions in bone
    data/adapters/deeplesion.py       DeepLesion: weak boxes
    data/exported_scans.py            scans on their way to another program
    data/exports.py                   a cohort -> the layout of nnU-Net, nnDetection or MONAI
    data/preprocess.py                scan <-> the model's isotropic grid, HU -> unit variance
    data/resample.py                  linear resampling in slabs
    data/content.py                   what files hold, as a digest
    data/chunks.py                    an image in compressed cubes, read by patches
    data/prepared_scan.py             a scan -> its folder in a store
    data/prepare.py                   many scans at once; osteomet prepare
    data/store.py                     the store, read by patches
    data/attributes.py                what each lesion looks like, where somebody noted it
    data/augment.py                   turns, scales and intensities drawn for a patch
    data/render_compiled.py           what was drawn, carried out by compiled loops on a CPU
    data/render_batch.py              the same through torch, on any device
    data/render.py                    a window of a scan and what was drawn -> a patch
    data/hard_places.py               places that resemble a lesion and are none
    data/patches.py                   patch number k of a seed
    data/loader.py                    batches of them, prepared ahead
    data/examination.py               one scan of a cohort, read once and measured
    data/body.py                      where body, lungs and bone are, on coarse cells
    data/histogram.py                 peaks, steps and noise of HU
    data/examination_store.py         many scans at once, and what was measured kept
    data/scan_checks.py               what may be wrong with one scan
    data/cohort_checks.py             copies, leaks over the split, balance
    data/confounding.py               how far things that are no lesion predict the primary

    simulate/settings.py              priors of a simulated cohort
    simulate/primaries.py             how the metastases of each primary look
    simulate/ceiling.py               how well the primary can be told at all
    simulate/noise.py                 random fields
    simulate/bones.py                 kinds of bone
    simulate/shapes.py                a drawing: shapes in the patient's millimetres
    simulate/raster.py                shapes -> voxels of a slab
    simulate/torso.py                 outlines: skin, muscle, cavity, lungs
    simulate/spine.py                 vertebrae, discs, canal
    simulate/cage.py                  ribs, sternum, shoulders
    simulate/pelvis.py                sacrum, hips, femurs
    simulate/muscles.py               muscles, limbs, table
    simulate/vessels.py               arteries, veins, lung vessels, bronchi
    simulate/organs.py                organs of chest, belly and pelvis
    simulate/anatomy.py               the whole trunk, and where each region lies in it
    simulate/texture.py               trabeculae, cortex, fat and muscle from near
    simulate/phantom.py               a patient without lesions, in HU
    simulate/lesions.py               shapes that grow in bone
    simulate/metastases.py            how they change it
    simulate/fractures.py             vertebrae that collapse, bones that break
    simulate/benign.py                findings that resemble metastases
    simulate/implants.py              metal, cement and lime
    simulate/artefacts.py             noise and beam hardening along rays
    simulate/quantum_noise.py         noise of one slice
    simulate/scanner.py               how two centres scan
    simulate/patient.py               one seed -> one patient and the truth
    simulate/enrolment.py             who is in a cohort
    simulate/cohort.py                a folder of patients
    simulate/hosts.py                 bone and noise of a real CT
    simulate/insert.py                metastases in a real CT

    models/layers.py                  what backbone, neck and heads share
    models/backbones/feature_levels.py  what every backbone is: images -> feature levels
    models/backbones/resnet.py        ResNet
    models/backbones/convnext.py      ConvNeXt
    models/backbones/convnextv2.py    ConvNeXt V2
    models/backbones/yolov8.py        YOLOv8's C2f and SPPF
    models/backbones/inflate.py       weights of a 2D network -> those of a 3D backbone
    models/fpn.py                     levels -> pyramid
    models/anchors.py                 reference boxes in mm
    models/processes.py               sums over the processes that share a batch
    models/matching.py                which boxes train as which lesion
    models/rpn.py                     pyramid -> proposals
    models/segmentation.py            auxiliary dense segmentation
    models/roi_heads.py               proposals -> class, box, mask, embedding
    models/mask_rcnn.py               the whole model in ten lines
    models/masked_autoencoder.py      backbone and decoder that guess hidden cubes
    models/primary.py                 a patient's lesions -> p(lung)
    checkpoint.py                     weights on disk, without pickle

    evaluation/statistics.py          bootstrap over patients, exact intervals
    evaluation/detection.py           hit rule, FROC
    evaluation/precision.py           average precision
    evaluation/overlap_crops.py       masks and lesions, cut out of the scan
    evaluation/segmentation.py        Dice, voxels right and wrong
    evaluation/surface.py             normalised surface distance
    evaluation/panoptic.py            panoptic quality
    evaluation/primary.py             AUC and Brier score of patients
    evaluation/roc.py                 ROC, DeLong's interval and test
    evaluation/confusion.py           counts at a threshold
    evaluation/calibration.py         does a probability mean what it says, under which prior?
    evaluation/decision.py            net benefit
    evaluation/scan.py                one scan against its truth
    evaluation/scored.py              scored scans by patient
    evaluation/lung_threshold.py      from which p(lung) a patient is called lung
    evaluation/detection_figures.py   what is measured of detection
    evaluation/segmentation_figures.py  of segmentation
    evaluation/appearance_figures.py  what reported lesions look like
    evaluation/primary_figures.py     and of the primary
    evaluation/cohort.py              all figures of a cohort
    evaluation/comparison.py          two models on the same patients
    evaluation/tables.py              as Markdown, CSV and JSON
    evaluation/audit.py               which counts lie behind printed figures
    evaluation/audit_text.py          and what that says, in words

    reporting/figures.py              planes and projections
    reporting/html.py                 report.html
    reporting/doctor_html.py          doctor.html
    reporting/evaluation_plots.py     FROC, ROC, calibration and decision curves
    reporting/evaluation_html.py      evaluation.html
    reporting/lesions_csv.py          lesions.csv
    reporting/reconstructions.py      what a masked autoencoder made of hidden cubes
    reporting/reproduce_paper.py      what the paper prints
    reporting/reproduce_results.py    what was measured to stand beside it
    reporting/reproduce_tables.py     both, as tables
    reporting/reproduce_plots.py      and as curves
    reporting/reproduce_html.py       reproduce.html
    reporting/files.py                files appear whole or not at all

    inference/pipeline.py             CT -> findings: the whole story
    inference/bone.py                 where bone lesions can be
    inference/tiles.py                tiles that cover it at little cost
    inference/shared_threads.py       pieces of a scan side by side on the cores of a CPU
    inference/merge.py                detections of tiles -> detections of the scan
    inference/lesions.py              detections -> measured lesions on the scan's grid
    inference/devices.py              cpu, cuda or mps
    inference/resources.py            seconds and memory
    inference/scan_id.py              the name of a result
    inference/outputs.py              the result's folder
    inference/batch.py                many scans
    inference/kept_lesions.py         what a scan leaves for the patient's other scans
    inference/cohort_scan.py          one scan of a cohort, finished once
    inference/cohort_summary.py       predictions.csv
    inference/engines.py              who works on scans: what all engines do
    inference/engines_local.py        processes on this machine
    inference/engines_ray.py          a Ray cluster
    inference/engine_choice.py        the one a user names
    inference/agenda.py               which scan is next, and what became of lost workers
    inference/cohort.py               the scans of a cohort
    inference/cohort_evaluation.py    their findings against the annotations

    training/run.py                   cohort.csv -> a folder with weights
    training/pretrain.py              scans without labels -> a pretrained backbone
    training/starting_weights.py      what --init reads
    training/task.py                  what the loop learns: detecting, or guessing
    training/run_folder.py            what is in that folder
    training/fabric.py                device, precision and processes
    training/loop.py                  the steps
    training/update.py                clipping, optimiser and average, by each process or shared
    training/shared_memory.py         memory that the processes of one machine see
    training/local_sums.py            sums of few numbers over them
    training/budget.py                minutes -> number of steps
    training/schedule.py              learning rate, RoI warm-up, weight decay
    training/ema.py                   averaged weights
    training/validation.py            losses, sensitivity and Dice on fixed patches
    training/state.py                 what a resumed run needs
    training/interrupt.py             stop between two steps
    training/logs.py                  CSV, TensorBoard, progress bar
    training/calibrate.py             operating threshold and second stage
    training/average.py               the mean of two weights of one network
    training/out_of_fold.py           how good that is on patients it was not fitted to

    demo.py                           a simulated patient, from DICOM to report
    doctor.py                         a cohort -> what is wrong with it
    reproduce/plan.py                 who trains and who tests, and with what
    reproduce/stages.py               one architecture, stage by stage
    reproduce/run.py                  a cohort -> the paper's tables and figure
    cli/shared.py                     options and the terminal, for all commands
    cli/cohorts.py                    simulate, import, doctor, prepare, export, split
    cli/learning.py                   train, pretrain, calibrate, reproduce
    cli/prediction.py                 predict
    cli/results.py                    evaluate, audit, demo
    cli/app.py                        all commands in one program
    cli/__main__.py                   python -m osteomet.cli
"""

__version__ = "0.1.0"
