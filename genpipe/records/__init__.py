"""What MLflow keeps of a project: runs, registered versions, and their files. No other package imports mlflow."""
