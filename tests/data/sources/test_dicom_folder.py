import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from cxr_mm.core.errors import DataNotFoundError, ManifestError
from cxr_mm.core.task import Task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources import read_source


def task(**options):
    return Task.model_validate(
        {
            "name": "pacs",
            "title": "PACS",
            "problem": "binary",
            "findings": [{"name": "edema", "title": "Edema"}],
            "clinical": [
                {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120},
                {"name": "sex", "title": "Sex", "type": "category", "categories": ["F", "M"]},
                {"name": "crp", "title": "CRP", "type": "number", "minimum": 0, "maximum": 500},
            ],
            "note": {},
            "source": {"kind": "dicom_folder", "folder": "pacs", "options": options},
            "split": {"protocol": "patient"},
            "licence": "none",
            "citation": "none",
        }
    )


def write(path, uid=None, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = Dataset()
    dataset.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid or generate_uid()
    values = {
        "StudyInstanceUID": generate_uid(),
        "Modality": "DX",
        "PatientID": "p1",
        "PatientAge": "045Y",
        "PatientSex": "F",
        "ViewPosition": "PA",
    }
    for tag, value in (values | fields).items():
        setattr(dataset, tag, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return str(dataset.SOPInstanceUID)


def test_headers_of_files_with_and_without_suffix(tmp_path):
    first = write(tmp_path / "pacs/a.dcm")
    second = write(tmp_path / "pacs/deep/IM0001", PatientAge="018M", PatientSex="M")
    rows = read_source(task(), tmp_path, tmp_path / "w").frame.set_index("study_id")
    assert rows["age"].to_dict() == {first: 45.0, second: 1.5}
    assert rows.loc[first, ["patient_id", "view", "sex"]].tolist() == ["p1", "PA", "F"]
    assert rows.loc[second, "image_path"] == str((tmp_path / "pacs/deep/IM0001").resolve())


def test_unreadable_foreign_and_repeated_files_are_dropped(tmp_path):
    pacs = tmp_path / "pacs"
    uid = write(pacs / "a.dcm")
    write(pacs / "b.dcm", uid=uid)
    write(pacs / "ct.dcm", Modality="CT")
    (pacs / "text.dcm").write_text("no DICOM at all")
    (pacs / "cut.dcm").write_bytes((pacs / "a.dcm").read_bytes()[:150])
    (pacs / "notes.txt").write_text("is not looked at")
    raw = read_source(task(), tmp_path, tmp_path / "w")
    assert raw.frame["study_id"].tolist() == [uid]
    reasons = {d.reason for d in raw.dropped}
    assert len(raw.dropped) == 4
    assert reasons == {
        "the same SOPInstanceUID occurs twice",
        "dicom_modality CT, no radiograph",
        "not a readable DICOM file",
        "no SOPInstanceUID, perhaps cut short",
    }


def test_csv_joins_by_uid_name_and_study(tmp_path):
    pacs = tmp_path / "pacs"
    study = generate_uid()
    by_uid = write(pacs / "a.dcm", PatientID="ANON")
    by_name = write(pacs / "b.dcm", PatientID="ANON")
    twins = [write(pacs / f"{n}.dcm", StudyInstanceUID=study, PatientID="ANON") for n in "cd"]
    write(pacs / "e.dcm", PatientID="ANON")
    (pacs / "labels.csv").write_text(
        "study_id,patient_id,note,crp,age,edema\n"
        f"{by_uid},p1,fever,12,50,1\n"
        "b.dcm,p2,cough,,,0\n"
        f"{study},p3,,7,,1\n"
        "nowhere,p4,,1,,1\n"
    )
    raw = read_source(task(csv="labels.csv"), tmp_path, tmp_path / "w")
    assert [(d.study_id, d.reason) for d in raw.dropped] == [
        ("nowhere", "no DICOM file has this id")
    ]
    labelled = to_manifest(task(), raw)
    rows = labelled.manifest.frame.set_index("study_id")
    assert set(rows.index) == {by_uid, by_name, *twins}, "the image without a row has no label"
    assert rows["patient_id"][[by_uid, by_name, *twins]].tolist() == ["p1", "p2", "p3", "p3"]
    assert rows["clinical.age"][[by_uid, by_name]].tolist() == [50, 45], "the CSV holds"
    assert rows["clinical.crp"][twins].tolist() == [7, 7]
    assert rows.loc[by_name, "note"] == "cough"
    assert rows.loc[by_uid, "image_path"].endswith("a.dcm")


def test_csv_with_ids_under_other_names(tmp_path):
    uid = write(tmp_path / "pacs/a.dcm", PatientID="ANON")
    header = "SOP,Patientennummer,crp,note,edema"
    (tmp_path / "pacs/labels.csv").write_text(f"{header}\n{uid},p7,12,cough,1\n")
    options = {"study_column": "SOP", "patient_column": "Patientennummer"}
    raw = read_source(task(csv="labels.csv", **options), tmp_path, tmp_path / "w")
    assert raw.frame[["study_id", "patient_id", "crp"]].values.tolist() == [[uid, "p7", "12"]]
    assert raw.dropped == []


def test_a_table_of_dicom_files_leaves_age_and_sex_to_their_headers(tmp_path):
    write(tmp_path / "pacs/a.dcm")
    write(tmp_path / "pacs/b.dcm", PatientAge="", PatientSex="M")
    (tmp_path / "pacs/manifest.csv").write_text(
        "study_id,patient_id,image_path,crp,note,edema\n"
        "1,p1,a.dcm,3,,1\n2,p2,b.dcm,4,cough,0\n3,p3,,5,,0\n"
    )
    own = task()
    source = own.source.model_copy(update={"kind": "manifest_csv"})
    table = own.model_copy(update={"source": source})
    rows = to_manifest(table, read_source(table, tmp_path, tmp_path / "w")).manifest.clinical()
    assert rows["age"].fillna(-1).tolist() == [45, -1, -1]
    assert rows["sex"].fillna("").tolist() == ["F", "M", ""]
    assert rows["crp"].tolist() == [3, 4, 5]


def test_csv_without_a_clinical_column(tmp_path):
    write(tmp_path / "pacs/a.dcm")
    (tmp_path / "pacs/labels.csv").write_text("study_id,edema\na.dcm,1\n")
    with pytest.raises(ManifestError, match=r"crp, note: these columns .*are study_id, edema\)"):
        read_source(task(csv="labels.csv"), tmp_path, tmp_path / "w")


def test_image_without_patient_is_dropped(tmp_path):
    uid = write(tmp_path / "pacs/a.dcm", PatientID="")
    write(tmp_path / "pacs/b.dcm")
    (tmp_path / "pacs/labels.csv").write_text("study_id,note,crp,edema\na,,1,1\nb,,1,1\n")
    own = task(csv="labels.csv")
    labelled = to_manifest(own, read_source(own, tmp_path, tmp_path / "w"))
    assert [(d.study_id, d.reason) for d in labelled.dropped] == [(uid, "no patient_id")]


def test_no_radiograph_is_an_error(tmp_path):
    (tmp_path / "pacs").mkdir()
    (tmp_path / "pacs/a.dcm").write_text("")
    with pytest.raises(DataNotFoundError, match="no readable DICOM radiograph"):
        read_source(task(), tmp_path, tmp_path / "w")


def test_other_files_are_counted_by_kind(tmp_path):
    write(tmp_path / "pacs/a.dcm")
    write(tmp_path / "pacs/b.IMA")
    for name in ("c.dcm.gz", "d.tif", "notes.txt", "DICOMDIR"):
        (tmp_path / "pacs" / name).write_bytes(b"")
    raw = read_source(task(), tmp_path, tmp_path / "w")
    assert [path.rpartition("/")[2] for path in raw.frame["image_path"]] == ["a.dcm", "b.IMA"]
    assert raw.passed_over == {".dcm.gz": 1, ".tif": 1, ".txt": 1, "without a suffix": 1}
